"""A scripted conversation: what the agent says at each turn.

Messages and tools are OpenAI's JSON objects, so a turn may bring user messages or tool results.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.model.failure import FailureReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from exporter.model.failure import Failure

Message = dict[str, Any]
Tool = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`steps[k]` holds the messages added before the request of turn k + 1.

    The engine's answer to each turn joins the history before the next step, unless the scenario is
    `recorded`: then the answer is dropped, and the next step begins with the recorded one.
    """

    name: str
    tools: tuple[Tool, ...]
    steps: tuple[tuple[Message, ...], ...]
    recorded: bool = False

    def first_messages(self) -> list[Message]:
        """The messages of the first request."""
        return list(self.steps[0])

    def all_messages(self) -> list[Message]:
        """Every scripted message, with an empty answer between the steps where the engine's own
        will stand: for counting tokens.
        """
        messages: list[Message] = []
        for step in self.steps:
            if messages and not self.recorded:
                messages.append({"role": "assistant", "content": ""})
            messages += step
        return messages

    def shortened(self, turns: int) -> Scenario:
        """The same scenario, ended after `turns` turns."""
        return Scenario(self.name, self.tools, self.steps[:turns], self.recorded)

    @property
    def has_system(self) -> bool:
        """Whether a system message is in it."""
        return any(message.get("role") == "system" for step in self.steps for message in step)

    def without_system(self) -> Scenario:
        """The same for a chat template that refuses a system message: its text stands at the head
        of the user's message that follows.
        """
        steps = tuple(tuple(_without_system(step)) for step in self.steps)
        return Scenario(self.name, self.tools, steps, self.recorded)

    def answers(self) -> int:
        """How many of the engine's answers the context must have room for at the last turn."""
        return 1 if self.recorded else len(self.steps)


@dataclass(frozen=True, slots=True)
class ScenarioKind:
    """A scenario whose opening can be lengthened: `build` takes the characters of padding.

    Without `padded` it is what somebody recorded, and `build` gives it as it is.
    """

    name: str
    build: Callable[[int], Scenario]
    padded: bool = True

    def without_system(self) -> ScenarioKind:
        """As `Scenario.without_system`."""
        return ScenarioKind(self.name, lambda n: self.build(n).without_system(), self.padded)


def _without_system(step: Sequence[Message]) -> Iterator[Message]:
    said: list[str] = []
    for message in step:
        if message.get("role") == "system":
            said.append(text_of(message))
        elif message.get("role") == "user" and said:
            yield headed(message, "\n\n".join(said), "\n\n")
            said = []
        else:
            yield message
    if said:
        yield {"role": "user", "content": "\n\n".join(said)}


def text_of(message: Mapping[str, Any]) -> str:
    """What a message says; parts that are no text are left out."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


NONCE_TOKENS = 40
"""More than a nonce takes: 32 characters, a token each at worst, and a line break."""


def headed(message: Message, text: str, between: str = "\n") -> Message:
    """The message with `text` before its own."""
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [{"type": "text", "text": text}, *content]}
    return {**message, "content": f"{text}{between}{content or ''}"}


_SYSTEM_REFUSED = re.compile(
    r"system['\"`]? (role|messages?|prompts?)\b|\brole\b.{0,40}\bsystem\b|roles must alternate"
    r"|only (the )?['\"]?user['\"]?,? and ['\"]?assistant",
    re.IGNORECASE,
)


def refuses_system(failure: Failure) -> bool:
    """Whether a request failed since the chat template takes no system message."""
    refused = failure.reason is FailureReason.BAD_REQUEST
    return refused and _SYSTEM_REFUSED.search(failure.detail) is not None


_MARKS_PER_ANSWER = 8
"""What a chat template writes around an answer; ChatML needs five tokens."""


def fits(scripted_tokens: int, answers: int, max_tokens: int, max_model_len: int | None) -> bool:
    """Whether a conversation stays within the model's context.

    `scripted_tokens` is the prompt of the last turn with empty answers; each of the `answers` that
    the engine gives into it may take `max_tokens`.
    """
    if max_model_len is None:
        return True
    return scripted_tokens + answers * (max_tokens + _MARKS_PER_ANSWER) <= max_model_len


def estimate_tokens(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> int:
    """A guess where /tokenize is not served: 3.5 characters to a token, 8 tokens a message."""
    characters = sum(
        len(str(message.get("content") or "")) + len(str(message.get("tool_calls") or ""))
        for message in messages
    )
    characters += sum(len(str(tool)) for tool in tools)
    return int(characters / 3.5) + 8 * len(messages)
