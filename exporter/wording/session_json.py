"""A session as JSON, for `probe --json` and for the HTTP API: one shape, unknown is null. Pure."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from exporter.model.session import SessionResult


@cache
def session_shape() -> TypeAdapter[SessionResult]:
    return TypeAdapter(SessionResult)


def session_json(result: SessionResult) -> dict[str, Any]:
    """The keys of a session. Seconds, tokens, ratios 0…1; `started` is RFC 3339 in UTC.

    Keys may be added at the end; none is renamed or left out.
    """
    shape: dict[str, Any] = session_shape().dump_python(result, mode="json", by_alias=True)
    for turn in shape["turns"]:  # pydantic puts computed keys last
        turn["cached_tokens_source"] = turn.pop("cached_tokens_source")
    return shape
