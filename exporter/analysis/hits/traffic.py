"""What an engine did between two readings of its counters, and the free room of its cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.analysis.hits.counted_hits import all_hits, growth

if TYPE_CHECKING:
    from exporter.analysis.own_share import OwnShare
    from exporter.model.engine import EngineSnapshot


@dataclass(frozen=True, slots=True)
class OwnTraffic:
    """What the exporter itself sent to the engine between two readings, in tokens.

    `unknown` counts requests without usage, `unsettled` those without cached tokens. `beside` are
    prompts and answers under other salts than the session's, such as those of cold controls: they
    take up room of their own in the cache.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    unknown: int = 0
    unsettled: int = 0
    beside: int = 0

    @classmethod
    def between(cls, before: OwnShare, after: OwnShare, session: int) -> OwnTraffic:
        """The growth since `before`. `session`: all tokens under the session's salt."""
        asked = (after.prompt_tokens - before.prompt_tokens) + (
            after.completion_tokens - before.completion_tokens
        )
        return cls(
            after.queried_tokens - before.queried_tokens,
            after.hit_tokens - before.hit_tokens,
            after.completion_tokens - before.completion_tokens,
            after.unknown - before.unknown,
            max(0, after.unsettled - before.unsettled),
            max(0, asked - session),
        )


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the engine did between two readings, by its own counters, in tokens.

    `foreign` are tokens that other clients' requests looked up or generated. It is an upper bound
    of what they evicted, because tokens that hit take up no new room. `alone`: the engine looked up
    exactly our own prompts. `unreported_hits` and `hits_beyond` are a lower and an upper bound of
    the hits of our prompts that our usage did not report; None if the engine counts no hits.
    `elsewhere` are tokens of our prompts that this engine did not look up, so another one did.
    `beside` are our own tokens under other salts.
    """

    foreign: float
    alone: bool
    unreported_hits: float | None
    elsewhere: float = 0.0
    hits_beyond: float | None = None
    beside: float = 0.0

    @property
    def taken(self) -> float:
        """The most tokens that can have evicted blocks of the session."""
        return self.foreign + self.beside


def traffic_between(
    before: EngineSnapshot | None, after: EngineSnapshot | None, own: OwnTraffic
) -> Traffic | None:
    """The growth of the engine's counters without our own share; None if one is unknown.

    Prompts of other clients are the smaller of two bounds. vLLM before 0.27 counts a lookup again
    at each step that a request waits. `vllm:prompt_tokens` counts each prompt once, when it is
    computed; the blocks of a prompt that is still being computed count as in use.

    Other clients cannot hit more than they looked up, so hits beyond that are ours.
    """
    if before is None or after is None or own.unknown:
        return None
    if before.parts.keys() != after.parts.keys():
        return None  # an engine joined or left: the sums are not of the same
    queried = growth(before.queried_tokens, after.queried_tokens)
    generated = growth(before.generation_tokens, after.generation_tokens)
    if queried is None or generated is None:
        return None
    computed = growth(before.prompt_tokens, after.prompt_tokens)
    looked_up = max(0.0, queried - own.prompt)
    prompts = looked_up
    if computed is not None and computed >= own.prompt:
        prompts = min(looked_up, computed - own.prompt)
    start = before.process_start_time
    same_process = start is not None and start == after.process_start_time
    exact = after.lookup_step_tokens == 1  # else what fills no block is not counted
    hits = all_hits(before, after)
    beyond = None if hits is None else hits - own.cached
    unsure = queried < own.prompt or own.unsettled > 0
    return Traffic(
        foreign=prompts + max(0.0, generated - own.completion),
        alone=queried == own.prompt,
        unreported_hits=None if unsure or beyond is None else beyond - looked_up,
        elsewhere=max(0.0, own.prompt - queried) if same_process and exact else 0.0,
        hits_beyond=beyond,
        beside=own.beside,
    )


def room_beside(
    held: int, before: EngineSnapshot | None, after: EngineSnapshot | None
) -> float | None:
    """Tokens that one rank's cache can take in before it must evict any of the `held` tokens.

    vLLM keeps one block of the pool as its null block and does not evict blocks of running
    requests. Of the two readings of the usage, the higher one counts.
    """
    cache = after.cache if after else None
    if cache is None or cache.capacity_tokens is None:
        return None
    usages = (one.kv_cache_usage_ratio for one in (before, after) if one is not None)
    in_use = max((usage for usage in usages if usage is not None), default=0.0)
    return max(0.0, cache.capacity_tokens * (1 - in_use) - held - (cache.block_size or 0))


def pressed(traffic: Traffic | None, room: float | None) -> bool | None:
    """Whether blocks of a session can have been evicted; None is unknown."""
    if traffic is None or room is None:
        return None
    return traffic.taken >= room
