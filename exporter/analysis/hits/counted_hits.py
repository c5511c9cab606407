"""The cached tokens of one request, by the engine's own counters before and after it.

`vllm:prefix_cache_queries` and `_hits` count the tokens of all clients. Their growth belongs to one
request only if the engine ran nothing else: it was idle before and after, the process is the same,
and it looked up exactly this prompt in between. If the hits did not grow at all, the request had
none, even if other requests ran.

These count the engine's own cache. `vllm:external_prefix_cache_queries` and `_hits` (since 0.11.2)
count what it lacked and looked up through a KV connector. usage counts both hits as cached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.model.engine import EngineSnapshot


def counted_hits(
    before: EngineSnapshot | None, after: EngineSnapshot | None, prompt: int
) -> int | None:
    """The tokens of one prompt that came from cache between two readings, in any tier.

    None if other requests may be in the growth.
    """
    if before is None or after is None or not idle(after) or not ran_alone(before, after, prompt):
        return None
    hits = all_hits(before, after)
    return int(hits) if hits is not None and 0 <= hits <= prompt and hits == int(hits) else None


def all_hits(before: EngineSnapshot, after: EngineSnapshot) -> float | None:
    """The growth of the hits in the engine's own cache and through a KV connector."""
    local = growth(before.hit_tokens, after.hit_tokens)
    external = growth(before.external_hit_tokens, after.external_hit_tokens)
    return None if local is None else local + (external or 0.0)


def external_hits(
    before: EngineSnapshot | None, after: EngineSnapshot | None, prompt: int, cached: int
) -> int | None:
    """How many of a prompt's `cached` tokens came through a KV connector between two readings.

    None if that is unknown: other requests may be in the growth, or it does not add up to `cached`.
    """
    if before is None or after is None or not counters_include(before, after, prompt):
        return None
    if before.process_start_time != after.process_start_time:
        return None
    external = growth(before.external_hit_tokens, after.external_hit_tokens)
    if external is None or external == 0:
        return None if external is None else 0
    total = all_hits(before, after)
    alone = idle(after) and ran_alone(before, after, prompt)
    if not alone or total is None or abs(total - cached) > ROUNDING:
        return None
    return min(int(external), cached)


ROUNDING = 1
"""Tokens: some versions take back the last token of a prompt that is cached as a whole."""


def has_store(engine: EngineSnapshot | None) -> bool:
    """Whether the engine has looked prompts up through a KV connector."""
    return engine is not None and bool(engine.external_queried_tokens)


def may_have_store(engine: EngineSnapshot | None) -> bool:
    """The same, or it has computed no prompt yet, so that nothing shows whether it does."""
    if engine is None or engine.external_queried_tokens is None:
        return False
    return has_store(engine) or not engine.prompt_tokens


def ran_alone(before: EngineSnapshot, after: EngineSnapshot, prompt: int) -> bool:
    """Whether the engine was idle, and then looked up exactly one prompt of that length."""
    same_process = before.process_start_time == after.process_start_time
    queried = growth(before.queried_tokens, after.queried_tokens)
    return idle(before) and same_process and queried == looked_up(after, prompt)


def no_hits(before: EngineSnapshot, after: EngineSnapshot, prompt: int) -> bool:
    """Whether the engine counted a prompt of that length between two readings, and no hit.

    `vllm:prompt_tokens_cached` (since 0.16) also counts hits in external caches.
    """
    if before.process_start_time != after.process_start_time:
        return False
    if not counters_include(before, after, prompt):
        return False
    cached = growth(before.cached_prompt_tokens, after.cached_prompt_tokens)
    return all_hits(before, after) == 0 and cached in (None, 0)


def counters_include(before: EngineSnapshot, after: EngineSnapshot, prompt: int) -> bool:
    """Whether the counters can already include a prompt of that length.

    vLLM counts a step after it has sent the step's tokens, so a stream can end before its tokens
    are counted. vLLM counts prompt tokens also when prefix caching is off.
    """
    grown = growth(before.prompt_tokens, after.prompt_tokens)
    if grown is None:
        grown = growth(before.queried_tokens, after.queried_tokens)
    return grown is not None and grown >= prompt


def looked_up(snapshot: EngineSnapshot, prompt: int) -> int:
    """The tokens that this engine counts as looked up for one prompt of that length."""
    if snapshot.cache is not None and snapshot.cache.prefix_caching is False:
        return 0
    step = snapshot.lookup_step_tokens
    return prompt // step * step


def idle(snapshot: EngineSnapshot) -> bool:
    """Whether no request ran or waited; False if that is unknown."""
    return snapshot.requests_running == 0 and snapshot.requests_waiting == 0


def growth(before: float | None, after: float | None) -> float | None:
    """None where either is unknown, or where the counter fell because it started again."""
    return None if before is None or after is None or after < before else after - before
