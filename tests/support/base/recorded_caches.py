"""What caches of vLLM 0.32.0 served, for the simulator's cache and for the rules of the exporter.

data/recorded_kinds.json has three sessions of `probe` with each kind of real engine: by request its
session, the tokens of prompt and answer, the earlier request that it shares most with and how many
tokens, and the cached tokens that usage reported. data/vllm_cache_manager.json has the same of
requests at random that were played through vLLM's own `KVCacheManager` without a model, with blocks
of 16 and prefix_cache_retention_interval 0. data/recorded_store.json has requests to an engine with
a KV store, with what usage reported and how the engine's own counters grew.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATA = Path(__file__).parent / "data"
RECORDED: dict[str, Any] = json.loads((_DATA / "recorded_kinds.json").read_text("utf-8"))
STORE: dict[str, Any] = json.loads((_DATA / "recorded_store.json").read_text("utf-8"))
PLAYED: dict[str, Any] = json.loads((_DATA / "vllm_cache_manager.json").read_text("utf-8"))


class Request(NamedTuple):
    """One request, with the tokens that it was served from cache."""

    session: str
    prompt: list[int]
    answer: list[int]
    cached: int


def requests_of(rows: list[Any]) -> Iterator[Request]:
    """The recorded requests, with other ids that share as much."""
    fresh, sequences = count(1), []
    for session, prompt, answer, shared, cached in rows:
        before = sequences[shared[0]][: shared[1]] if shared else []
        ids = before + [next(fresh) for _ in range(prompt - len(before))]
        said = [next(fresh) for _ in range(answer)]
        sequences.append(ids + said[:-1])
        yield Request(str(session), ids, said, cached)
