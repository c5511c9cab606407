"""An API that carries a chat: where a request goes, its body, and how the answer is read.

A session has one form, that of chat completions, whatever API it is played over. A surface
translates it: the body of each request, with the whole history in the form of its API, and the
events of the stream back into an `Answer`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.engine.wire.answer import Answer, Json
    from exporter.engine.wire.refusal import Refusal
    from exporter.engine.wire.request import ChatRequest, Objects

    Message = Mapping[str, Any]

_WITHOUT_PATH = (
    *(HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED),
)


@dataclass(frozen=True, slots=True)
class Surface:
    """One API; `name` is that of the setting `probe.api`.

    `body` makes a request's JSON, `answer` an empty answer to read events into.

    `rendered` gives the messages of a chat request with the same prompt, for /tokenize. Where an
    answer lacks its token ids, they come from logprobs with `has_logprobs`, and from the text of
    each event with `by_text`. A server may lack an API that is `optional`.
    """

    name: str
    path: str
    body: Callable[[ChatRequest], Json]
    answer: Callable[[], Answer]
    rendered: Callable[[Objects], Objects] = list
    has_logprobs: bool = False
    by_text: bool = False
    optional: bool = True

    def failure_of(self, refusal: Refusal) -> Failure:
        """The failure of a refused request. A server that lacks the path is one of its own."""
        failure = refusal.failure
        other = failure.reason is FailureReason.MODEL_NOT_FOUND
        if other or not self.optional or refusal.status not in _WITHOUT_PATH:
            return failure
        detail = f"the server does not serve {self.path} ({failure.detail})"
        return Failure(FailureReason.API_NOT_SERVED, detail)


def text_of(message: Message) -> str:
    """The text of a message: its parts on lines of their own, as vLLM joins them."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content)
    return str(content or "")


def reasoning_of(message: Message) -> str:
    """The reasoning of an assistant's message, by either of vLLM's names."""
    return str(message.get("reasoning") or message.get("reasoning_content") or "")


def arguments_of(call: Message) -> Json:
    """The arguments of a tool call; none where an answer broke off within them."""
    try:
        arguments = json.loads(call["function"].get("arguments") or "{}")
    except (ValueError, RecursionError):
        return {}
    return arguments if isinstance(arguments, dict) else {}


def without_system(messages: Objects) -> tuple[str, Objects]:
    """The text of a leading system message, and the other messages."""
    if messages and messages[0].get("role") == "system":
        return text_of(messages[0]), messages[1:]
    return "", messages


def rendered_answer(message: Message) -> Json:
    """An assistant's message as vLLM makes it of the items or blocks of another API.

    What it lacks is left out: a template may write an empty text where there is a `content`.
    """
    made: Json = {"role": "assistant"}
    if reasoning := reasoning_of(message):
        made["reasoning"] = reasoning
    if calls := message.get("tool_calls"):
        made["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.dumps(arguments_of(call))}}
            for call in calls
        ]
    text = text_of(message)
    if text or len(made) == 1:
        made["content"] = text
    return made
