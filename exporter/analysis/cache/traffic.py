"""What ran on the engine between two readings of its counters, and what its cache had room for.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.analysis.cache.counters import growth

if TYPE_CHECKING:
    from exporter.analysis.own_share import OwnShare
    from exporter.model.engine import EngineSnapshot


@dataclass(frozen=True, slots=True)
class OwnUse:
    """What the exporter itself asked of the engine between two readings, in tokens.

    Of `unknown` requests no token is known, of `untold` ones not how many were cached. `beside` are
    prompts and answers under another salt than the session's, such as those of cold controls: they
    take room of their own in the cache.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    unknown: int = 0
    untold: int = 0
    beside: int = 0

    @classmethod
    def between(cls, before: OwnShare, after: OwnShare, session: int) -> OwnUse:
        """What was asked since `before`; `session` are the tokens of this under the session's salt,
        prompts and answers.
        """
        asked = (after.prompt_tokens - before.prompt_tokens) + (
            after.completion_tokens - before.completion_tokens
        )
        return cls(
            after.queried_tokens - before.queried_tokens,
            after.hit_tokens - before.hit_tokens,
            after.completion_tokens - before.completion_tokens,
            after.unknown - before.unknown,
            max(0, after.untold - before.untold),
            max(0, asked - session),
        )


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the engine did between two readings, by its own counters, in tokens.

    `foreign` is what others had looked up or generated: an upper bound of what they can have pushed
    out, since tokens that hit take no room anew. `alone` is true where the engine looked up exactly
    our own prompts. `unreported_hits` and `hits_beyond` bound, from below and from above, the hits
    of our prompts that the engine counted beyond those that our usage showed; None where it does
    not count hits. `elsewhere` are tokens of our own prompts that the engine did not look up:
    another one did. `beside` is what we asked under other salts meanwhile.
    """

    foreign: float
    alone: bool
    unreported_hits: float | None
    elsewhere: float = 0.0
    hits_beyond: float | None = None
    beside: float = 0.0

    @property
    def taken(self) -> float:
        """What can have pushed blocks of one session out."""
        return self.foreign + self.beside


def traffic_between(
    before: EngineSnapshot | None, after: EngineSnapshot | None, own: OwnUse
) -> Traffic | None:
    """The engine's counters between two readings less our own; None where one is unknown.

    Others' prompts are the smaller of two bounds: vLLM below 0.27 counts a lookup again at each
    step that a request waits, and `vllm:prompt_tokens` counts each prompt once, when it was
    computed. A prompt that is still being computed is in what running requests hold.

    Others cannot have hit more than they looked up, so what hit beyond that was ours.
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
    hits = growth(before.hit_tokens, after.hit_tokens)
    beyond = None if hits is None else hits - own.cached
    unsure = queried < own.prompt or own.untold > 0
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
    """Tokens that one rank's cache takes in beside the `held` ones before any of those must go.

    vLLM keeps one block of the pool as its null block, and blocks of running requests cannot be
    taken; the higher of the two readings of the usage counts.
    """
    cache = after.cache if after else None
    if cache is None or cache.capacity_tokens is None:
        return None
    usages = (one.kv_cache_usage_ratio for one in (before, after) if one is not None)
    in_use = max((usage for usage in usages if usage is not None), default=0.0)
    return max(0.0, cache.capacity_tokens * (1 - in_use) - held - (cache.block_size or 0))


def pressed(traffic: Traffic | None, room: float | None) -> bool | None:
    """Whether blocks of a session can have been pushed out; None where that is unknown."""
    if traffic is None or room is None:
        return None
    return traffic.taken >= room
