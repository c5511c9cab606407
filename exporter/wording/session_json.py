"""A session as JSON, for `probe --json` and for the HTTP API. Unknown is null. Pure."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from exporter.model.session import SessionResult, TurnFacts


@cache
def session_adapter() -> TypeAdapter[SessionResult]:
    """Writes a session as JSON and reads it back.

    The first call takes 15 ms and 1 MB, which most daemons never need.
    """
    return TypeAdapter(SessionResult)


def session_json(result: SessionResult) -> dict[str, Any]:
    """A session as JSON. Seconds, tokens, ratios 0…1; `started` is RFC 3339 in UTC.

    Keys may be added at the end; none is ever renamed or removed.
    """
    shape: dict[str, Any] = session_adapter().dump_python(result, mode="json", by_alias=True)
    for turn in shape["turns"]:
        for key in _AFTER_COMPUTED:
            turn[key] = turn.pop(key)
    return shape


_NAMES = [each.name for each in fields(TurnFacts)]
_INTERNAL = ("inter_token_seconds", "sent_at")
_AFTER_COMPUTED = tuple(
    name for name in _NAMES[_NAMES.index("control") + 1 :] if name not in _INTERNAL
)
"""pydantic puts computed keys last, but these came later."""
