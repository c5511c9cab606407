"""A recorded request of an agent, in one form for the three APIs that vLLM serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Api(StrEnum):
    """The path of an API. vLLM shows the prompt of a request at the same path with /render."""

    CHAT = "/v1/chat/completions"
    MESSAGES = "/v1/messages"
    RESPONSES = "/v1/responses"
    COMPLETIONS = "/v1/completions"  # for traces, whose prompts are token ids


RECORDED_APIS = (Api.CHAT, Api.MESSAGES, Api.RESPONSES)
"""Those whose requests are recorded."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message: its role, and the name and text of each field that a template may render.

    A text that a message has in parts has one field for each: `content[2]` is its
    second part. Thoughts are no parts of a text: they are joined in the field `reasoning`.
    """

    role: str
    fields: tuple[tuple[str, str], ...] = field(repr=False)

    def text(self, name: str) -> str | None:
        """The text of a field; None if the message lacks it."""
        return next((text for each, text in self.fields if each == name), None)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool's definition as JSON, with its keys in the order in which they were sent."""

    name: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RecordedUsage:
    """What the engine said of a request, in tokens. None is unknown."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request of a recording.

    `place` is its line or entry in the file, `body` what was sent. `settings` are the fields beside
    messages and tools that change the prompt, as JSON. Requests of different `cache` (model or
    adapter, and salt) never share blocks. `answer` has one message, or one for each item of
    /v1/responses, and `raw_answer` the same as it came; they are empty if it was not recorded.
    `time` is in seconds since 1970.
    """

    place: str
    api: Api
    body: Mapping[str, Any] = field(repr=False)
    model: str
    salt: str | None
    settings: tuple[tuple[str, str], ...]
    tools: tuple[Tool, ...]
    messages: tuple[Message, ...]
    answer: tuple[Message, ...] = ()
    raw_answer: tuple[Any, ...] = field(default=(), repr=False)
    usage: RecordedUsage = RecordedUsage()
    time: float | None = None

    @property
    def cache(self) -> tuple[str, str | None]:
        """Model or adapter, and salt."""
        return self.model, self.salt

    @property
    def begins_with_system(self) -> bool:
        """Whether the first message is a field of its own and not in the list of messages."""
        key = {Api.MESSAGES: "system", Api.RESPONSES: "instructions"}.get(self.api)
        return key is not None and bool(self.body.get(key)) and self.messages[0].role == "system"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record of a recording that was not used: its place and why."""

    place: str
    reason: str
