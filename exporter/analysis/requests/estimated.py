"""Tokens without an engine: pieces of words in a prompt like those that most templates write.

The number of tokens is an estimate. What two prompts share is exact to a few tokens, because the
same text always has the same pieces.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from exporter.analysis.requests.sharing import Tokenized

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.model.recorded import Message, RecordedRequest, Tool

_PIECE: Final = re.compile(
    r"[\u2e80-\u9fff\uac00-\ud7af\u3040-\u30ff]"  # one token for each character, or nearly so
    r"| ?[^\W\d_]{1,8}| ?\d{1,3}|\s{1,8}|_|[^\w\s]"
)
"""Near to the pieces of GPT-like tokenizers: a word with the space before it, three digits."""
_ANSWER_STARTS = "<start>assistant\n"


@dataclass(slots=True)
class Estimator:
    """The pieces of requests as numbers, equal for equal pieces."""

    _ids: dict[str, int] = field(default_factory=dict)
    _messages: dict[Message, array[int]] = field(default_factory=dict)
    _tools: dict[tuple[Tool, ...], array[int]] = field(default_factory=dict)

    def tokenized(self, request: RecordedRequest) -> Tokenized:
        """The tokens of a request and of its answer."""
        prompt: array[int] = array("I")
        system = request.messages[:1] if request.messages[0].role != "user" else ()
        for message in system:
            prompt += self._message(message)
        prompt += self._listed(request.tools)
        for message in request.messages[len(system) :]:
            prompt += self._message(message)
        prompt += self._numbers(_ANSWER_STARTS)
        answer: array[int] = array("I")
        for message in request.answer:
            answer += self._message(message)
        start = len(self._numbers(_ANSWER_STARTS))
        return Tokenized(prompt, prompt + answer[start:])

    def _message(self, message: Message) -> array[int]:
        if message not in self._messages:
            texts = "\n".join(text for _, text in message.fields)
            self._messages[message] = self._numbers(f"<start>{message.role}\n{texts}<end>\n")
        return self._messages[message]

    def _listed(self, tools: tuple[Tool, ...]) -> array[int]:
        if tools and tools not in self._tools:
            self._tools[tools] = self._numbers("\n".join(tool.text for tool in tools))
        return self._tools.get(tools, array("I"))

    def _numbers(self, text: str) -> array[int]:
        return array("I", self._numbered(_PIECE.findall(text)))

    def _numbered(self, pieces: Iterable[str]) -> Iterable[int]:
        ids = self._ids
        return (ids.setdefault(piece, len(ids)) for piece in pieces)
