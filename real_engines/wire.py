"""What the engine's own streams say about cached tokens, read without the exporter's client."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from real_engines.programs import read

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORDS = "A block holds the keys and values of some tokens. " * 60
PATIENCE = 300


def told_tokens(url: str, model: str | None) -> dict[str, int | None]:
    """The cached tokens in the usage of a new prompt, and of the same prompt once more.

    None: usage has none, or the engine refused the request.
    """
    served = model or first_model(url)
    message = {"role": "user", "content": f"{secrets.token_hex(16)} {_WORDS}"}
    body = {
        "model": served,
        "messages": [message],
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return {name: _cached(url, body) for name in ("new", "repeated")}


def first_model(url: str) -> str:
    """The first model that the engine lists."""
    return str(json.loads(read(f"{url}/v1/models"))["data"][0]["id"])


def _cached(url: str, body: Mapping[str, Any]) -> int | None:
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return cached_of(str(answer.read(), "utf-8"))
    except urllib.error.HTTPError:
        return None


def cached_of(stream: str) -> int | None:
    """The cached tokens in the usage of a stream; None if it has none."""
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    usages: list[Mapping[str, Any]] = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    usage = usages[-1] if usages else {}
    cached: int | None = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    return cached
