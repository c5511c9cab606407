"""A scenario: a conversation with the agent's messages for each turn.

Messages and tools are OpenAI's JSON objects, so a turn can add user messages or tool results.
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
    """`steps[k]` are the messages added before the request of turn k + 1.

    The engine's answer to each turn goes into the history before the next step. In a `recorded`
    scenario it is dropped, and the next step begins with the recorded answer.
    """

    name: str
    tools: tuple[Tool, ...]
    steps: tuple[tuple[Message, ...], ...]
    recorded: bool = False

    def first_messages(self) -> list[Message]:
        """The messages of the first request."""
        return list(self.steps[0])

    def all_messages(self) -> list[Message]:
        """All messages, for a token count, with empty answers in place of the engine's."""
        messages: list[Message] = []
        for step in self.steps:
            if messages and not self.recorded:
                messages.append({"role": "assistant", "content": ""})
            messages += step
        return messages

    def shortened(self, turns: int) -> Scenario:
        """The same scenario with only the first `turns` turns."""
        return Scenario(self.name, self.tools, self.steps[:turns], self.recorded)

    @property
    def has_system(self) -> bool:
        """Whether it has a system message."""
        return any(message.get("role") == "system" for step in self.steps for message in step)

    def without_system(self) -> Scenario:
        """The same for a chat template that refuses system messages.

        The text of a system message goes to the head of the next user message.
        """
        steps = tuple(tuple(_without_system(step)) for step in self.steps)
        return Scenario(self.name, self.tools, steps, self.recorded)

    def answers(self) -> int:
        """The number of the engine's answers that the context must have room for."""
        return 1 if self.recorded else len(self.steps)


@dataclass(frozen=True, slots=True)
class ScenarioKind:
    """A scenario whose opening can be made longer: `build` takes the padding in characters.

    Without `padded` the scenario is recorded, and `build` ignores the padding.
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
            yield with_text_before(message, "\n\n".join(said), "\n\n")
            said = []
        else:
            yield message
    if said:
        yield {"role": "user", "content": "\n\n".join(said)}


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, without parts that are not text."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


NONCE_TOKENS = 40
"""The most tokens of a nonce: 32 characters, at worst one token each, and a line break."""


def with_text_before(message: Message, text: str, between: str = "\n") -> Message:
    """The message with `text` before its own text."""
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
    """Whether a request failed because the chat template refuses system messages."""
    refused = failure.reason is FailureReason.BAD_REQUEST
    return refused and _SYSTEM_REFUSED.search(failure.detail) is not None


_MARKS_PER_ANSWER = 8
"""Tokens that a chat template writes around an answer; ChatML needs five."""


def fits(scripted_tokens: int, answers: int, max_tokens: int, max_model_len: int | None) -> bool:
    """Whether a conversation fits into the model's context.

    `scripted_tokens` are those of the last turn's prompt with empty answers. Each of the engine's
    `answers` in it can take `max_tokens`.
    """
    if max_model_len is None:
        return True
    return scripted_tokens + answers * (max_tokens + _MARKS_PER_ANSWER) <= max_model_len


def estimate_tokens(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> int:
    """An estimate without /tokenize: 3.5 characters per token, and 8 tokens per message."""
    characters = sum(
        len(str(message.get("content") or "")) + len(str(message.get("tool_calls") or ""))
        for message in messages
    )
    characters += sum(len(str(tool)) for tool in tools)
    return int(characters / 3.5) + 8 * len(messages)
