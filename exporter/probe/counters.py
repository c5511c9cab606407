"""Cached tokens of one request by the engine's own counters around it. Pure.

`vllm:prefix_cache_queries` and `_hits` count everybody's tokens. Their growth is that of one
request only if the engine ran nothing else: idle before and after, the same process, and exactly
this prompt looked up in between. But where the hits did not grow at all, the request had none,
whoever else ran.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.model import EngineSnapshot


def counted(
    before: EngineSnapshot | None, after: EngineSnapshot | None, prompt_tokens: int
) -> int | None:
    """The prompt's tokens that came from cache between two readings; None where others' may be in
    it.
    """
    if before is None or after is None or not (idle(before) and idle(after)):
        return None
    if before.process_start_time != after.process_start_time:
        return None
    queried = _growth(before.queried_tokens, after.queried_tokens)
    hits = _growth(before.hit_tokens, after.hit_tokens)
    if queried != prompt_tokens or hits is None or not 0 <= hits <= prompt_tokens:
        return None
    return int(hits) if hits == int(hits) else None


def no_hits(before: EngineSnapshot, after: EngineSnapshot, prompt_tokens: int) -> bool:
    """Whether the engine counted a prompt of that length between two readings, and no hit.

    `prompt_tokens_cached` counts what came from external caches too; vLLM has it since 0.16.
    """
    if before.process_start_time != after.process_start_time:
        return False
    if not seen(before, after, prompt_tokens):
        return False
    external = _growth(before.cached_prompt_tokens, after.cached_prompt_tokens)
    return _growth(before.hit_tokens, after.hit_tokens) == 0 and external in (None, 0)


def seen(before: EngineSnapshot, after: EngineSnapshot, prompt_tokens: int) -> bool:
    """Whether the counters can have a prompt of that length in them already.

    vLLM counts a step after it has sent the step's tokens, so the end of a stream may be early.
    Prompt tokens are counted with prefix caching off, too.
    """
    grown = _growth(before.prompt_tokens, after.prompt_tokens)
    if grown is None:
        grown = _growth(before.queried_tokens, after.queried_tokens)
    return grown is not None and grown >= prompt_tokens


def idle(snapshot: EngineSnapshot) -> bool:
    """Whether nothing ran and nothing waited; unknown is no."""
    return snapshot.requests_running == 0 and snapshot.requests_waiting == 0


def _growth(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
