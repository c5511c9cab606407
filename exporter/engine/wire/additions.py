"""What a user adds to the requests of one target: headers, and fields of a chat request. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.engine.wire.answer import Json
    from exporter.engine.wire.request import RequestContext

_RENDERING = ("chat_template", "chat_template_kwargs", "add_special_tokens", "mm_processor_kwargs")
"""Fields of a chat request that change its prompt, and that /tokenize has, too."""
_TEMPLATE_VALUES = ("documents", "reasoning_effort")
"""Fields that vLLM passes on to the chat template; /tokenize has them in `chat_template_kwargs`."""


@dataclass(frozen=True, slots=True)
class Additions:
    """Headers and fields of the body, by name.

    Their strings are templates: `{session}` and `{turn}` are filled in (`RequestContext`), and
    `{{` and `}}` are braces. A request outside of a session is sent without the headers and fields
    that need one.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def has_header(self, name: str) -> bool:
        """Whether the user sets this header."""
        return name.lower() in (each.lower() for each in self.headers)

    def headers_of(self, context: RequestContext | None) -> dict[str, str]:
        """The headers of one request."""
        return {
            name: _filled(text, context)
            for name, text in self.headers.items()
            if context is not None or not _needs_session(text)
        }

    def body_of(self, context: RequestContext | None) -> Json:
        """The fields of one chat request."""
        return {
            name: _filled(value, context)
            for name, value in self.body.items()
            if context is not None or not _needs_session(value)
        }

    def rendering_of(self, context: RequestContext | None) -> Json:
        """The fields of a /tokenize request that must render a prompt as a chat request does."""
        return rendering_fields(self.body_of(context))


def rendering_fields(body: Mapping[str, Any]) -> Json:
    """The fields of a chat request that change its prompt beside messages and tools, as /tokenize
    has them.
    """
    found = {name: body[name] for name in _RENDERING if name in body}
    values = {name: body[name] for name in _TEMPLATE_VALUES if name in body}
    if values:
        found["chat_template_kwargs"] = values | (found.get("chat_template_kwargs") or {})
    return found


def _filled(value: Any, context: RequestContext | None) -> Any:
    """The value with each string in it filled in."""
    if isinstance(value, str):
        session, turn = ("", 0) if context is None else (context.session, context.turn)
        return value.format(session=session, turn=turn)
    if isinstance(value, dict):
        return {name: _filled(each, context) for name, each in value.items()}
    return [_filled(each, context) for each in value] if isinstance(value, list | tuple) else value


def _needs_session(value: Any) -> bool:
    """Whether a string in the value has a placeholder."""
    if isinstance(value, str):
        return any(name is not None for _, name, _, _ in Formatter().parse(value))
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list | tuple) and any(map(_needs_session, value))
