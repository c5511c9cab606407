"""JSON answers with the same bytes as vLLM's web framework: compact, without a charset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping


def dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def answer(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=dump(body).encode("utf-8", errors="replace"),
        status=status,
        headers=headers,
        content_type="application/json",
    )
