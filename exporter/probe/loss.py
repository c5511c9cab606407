"""Why tokens that the cache could have served were not: rules, in order, on evidence. Pure.

The first rule that applies names the cause, so a loss has exactly one. What each rule asks for, and
why in this order, is told in docs/loss-causes.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.model import Loss, LossCause

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.model import EngineSnapshot
    from exporter.own_share import OwnShare

WEDGE_UNITS = 3
"""How many match units a prompt must span before a repeat that misses says anything."""


@dataclass(frozen=True, slots=True)
class OwnUse:
    """What the exporter itself asked of the engine between two readings, in tokens.

    Of `unknown` requests no token is known, of `untold` ones not how many were cached.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    unknown: int = 0
    untold: int = 0

    @classmethod
    def between(cls, before: OwnShare, after: OwnShare) -> OwnUse:
        """What was asked since `before`."""
        return cls(
            after.queried_tokens - before.queried_tokens,
            after.hit_tokens - before.hit_tokens,
            after.completion_tokens - before.completion_tokens,
            after.unknown - before.unknown,
            max(0, after.untold - before.untold),
        )


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the engine did between two readings, by its own counters, in tokens.

    `foreign` is what others had looked up or generated: an upper bound of what they can have pushed
    out, since tokens that hit take no room anew. `alone` is true where the engine looked up exactly
    our own prompts. `unreported_hits` are hits that the engine counted beyond those that our usage
    showed, None where the engine was not alone or does not count them. `elsewhere` are tokens of
    our own prompts that the engine did not look up: another one did.
    """

    foreign: float
    alone: bool
    unreported_hits: float | None
    elsewhere: float = 0.0


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same prompt sent again at once under the same salt: what came from cache, and the traffic
    in between.
    """

    cached: int
    traffic: Traffic | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a turn that lost tokens; None is unknown. Tokens.

    `room` is what the cache could take in beside this session before any of it had to go. `traffic`
    is that since the last reading at which the session's prefix is known to have been touched.
    `several` says how more than one engine at this URL is known, where it is.
    """

    cached: int
    ideal: int
    prompt: int
    match_unit: int
    prefix_caching: bool | None = None
    restarted: bool | None = None
    ranks: int | None = None
    room: float | None = None
    traffic: Traffic | None = None
    repeat: Repeat | None = None
    several: str | None = None

    @property
    def total(self) -> bool:
        """Nothing at all was served from cache."""
        return self.cached == 0

    def pressed(self, traffic: Traffic | None) -> bool | None:
        """Whether others can have pushed blocks of this session out; None where that is unknown."""
        if traffic is None or self.room is None:
            return None
        return traffic.foreign >= self.room


def traffic_between(
    before: EngineSnapshot | None, after: EngineSnapshot | None, own: OwnUse
) -> Traffic | None:
    """The engine's counters between two readings less our own; None where one is unknown."""
    if before is None or after is None or own.unknown:
        return None
    queried = _growth(before.queried_tokens, after.queried_tokens)
    generated = _growth(before.generation_tokens, after.generation_tokens)
    if queried is None or generated is None:
        return None
    alone = queried == own.prompt
    start = before.process_start_time
    same_process = start is not None and start == after.process_start_time
    hits = _growth(before.hit_tokens, after.hit_tokens)
    told = alone and not own.untold
    return Traffic(
        foreign=max(0.0, queried - own.prompt) + max(0.0, generated - own.completion),
        alone=alone,
        unreported_hits=hits - own.cached if told and hits is not None else None,
        elsewhere=max(0.0, own.prompt - queried) if same_process else 0.0,
    )


def room_beside(
    held: int, before: EngineSnapshot | None, after: EngineSnapshot | None
) -> float | None:
    """Tokens that one rank's cache takes in beside the `held` ones before any of those must go.

    vLLM keeps one block of the pool as its null block, and blocks of running requests cannot be
    taken; the higher of the two readings of the usage counts.
    """
    cache = after.cache if after else None
    if cache is None:
        return None
    capacity = cache.capacity_tokens
    if capacity is None and cache.num_blocks is not None and cache.block_size is not None:
        capacity = cache.num_blocks * cache.block_size
    if capacity is None:
        return None
    usages = (one.kv_cache_usage_ratio for one in (before, after) if one is not None)
    in_use = max((usage for usage in usages if usage is not None), default=0.0)
    return max(0.0, capacity * (1 - in_use) - held - (cache.block_size or 0))


def long_enough(prompt: int, match_unit: int) -> bool:
    """Whether a prompt, sent twice, must hit at least three match units on a sound engine."""
    return prompt > WEDGE_UNITS * match_unit


def loss(evidence: Evidence) -> Loss | None:
    """The loss of a turn with its one cause; None where nothing was lost."""
    if evidence.cached >= evidence.ideal:
        return None
    cause, text = next(found for rule in RULES if (found := rule(evidence)) is not None)
    return Loss(evidence.ideal - evidence.cached, cause, text)


def needs_repeat(evidence: Evidence) -> bool:
    """Whether only an identical repeat can tell the causes apart that are left."""
    settled = any(
        rule(evidence) for rule in (_disabled, _mixed, _restart, _unreported, _other_rank)
    )
    return evidence.total and not settled and evidence.pressed(evidence.traffic) is not True


Verdict = tuple[LossCause, str] | None


def _disabled(evidence: Evidence) -> Verdict:
    if evidence.prefix_caching is not False:
        return None
    return LossCause.DISABLED, 'vllm:cache_config_info has enable_prefix_caching="False"'


def _mixed(evidence: Evidence) -> Verdict:
    if evidence.several is not None:
        return LossCause.MIXED, evidence.several
    traffics = (evidence.traffic, evidence.repeat.traffic if evidence.repeat else None)
    elsewhere = max((one.elsewhere for one in traffics if one is not None), default=0.0)
    if not elsewhere or evidence.prefix_caching is not True:
        return None
    text = (
        f"{_tokens(elsewhere)} of the session's own prompts are not in the counters of the "
        f"engine that /metrics is of: another one at this URL computed them"
    )
    return LossCause.MIXED, text


def _restart(evidence: Evidence) -> Verdict:
    if not evidence.restarted:
        return None
    return LossCause.RESTART, "process_start_time_seconds changed during the session"


def _unreported(evidence: Evidence) -> Verdict:
    traffic = evidence.traffic
    lost = evidence.ideal - evidence.cached
    if traffic is None or traffic.unreported_hits is None or traffic.unreported_hits < lost:
        return None
    text = (
        f"the engine, which ran nothing else, counted {traffic.unreported_hits:.0f} more hit "
        f"tokens in vllm:prefix_cache_hits than its usage reported"
    )
    return LossCause.UNREPORTED, text


def _wedged(evidence: Evidence) -> Verdict:
    repeat = evidence.repeat
    if repeat is None or repeat.cached > 0 or not evidence.total or evidence.ranks != 1:
        return None
    if not long_enough(evidence.prompt, evidence.match_unit):
        return None
    if evidence.pressed(repeat.traffic) is not False or repeat.traffic is None:
        return None
    text = (
        f"the same prompt of {evidence.prompt} tokens, sent again at once, hit nothing either; "
        f"in between others used {_tokens(repeat.traffic.foreign)}, "
        f"and {_tokens(evidence.room)} had room"
    )
    return LossCause.WEDGED, text


def _evicted(evidence: Evidence) -> Verdict:
    traffic = evidence.traffic
    if evidence.pressed(traffic) and traffic is not None:
        text = (
            f"others used {_tokens(traffic.foreign)} since the session was last seen in the cache, "
            f"which had room for {_tokens(evidence.room)} beside it"
        )
        return LossCause.EVICTED, text
    if evidence.total or evidence.ranks != 1:
        return None
    used = "an unknown number of tokens" if traffic is None else _tokens(traffic.foreign)
    text = (
        f"the session's first {evidence.cached} tokens still hit and its tail did not, as when the "
        f"least recently used blocks go; others used {used} meanwhile"
    )
    return LossCause.EVICTED, text


def _other_rank(evidence: Evidence) -> Verdict:
    if evidence.ranks is None or evidence.ranks < 2:  # noqa: PLR2004 - one rank has no other
        return None
    text = (
        f"the engine has {evidence.ranks} ranks with a cache each, and a turn that runs on another "
        f"rank than the one before finds less there; nothing shows that a cache was full"
    )
    return LossCause.OTHER_RANK, text


def _reset(evidence: Evidence) -> Verdict:
    repeat, traffic = evidence.repeat, evidence.traffic
    if repeat is None or repeat.cached == 0 or traffic is None or not evidence.total:
        return None
    if evidence.pressed(traffic) is not False:
        return None
    text = (
        f"all of the session was gone at once while others used only {_tokens(traffic.foreign)} "
        f"and {_tokens(evidence.room)} had room, and the same prompt, sent again at once, hit "
        f"{repeat.cached} tokens: the cache had been emptied"
    )
    return LossCause.RESET, text


def _unexplained(evidence: Evidence) -> Verdict:
    known = {
        "prefix caching is on": evidence.prefix_caching is True,
        "the engine was not restarted": evidence.restarted is False,
        "no other traffic filled the cache": evidence.pressed(evidence.traffic) is False,
    }
    unknown = {
        "whether prefix caching is on": evidence.prefix_caching is None,
        "whether the engine was restarted": evidence.restarted is None,
        "how much others used or the cache holds": evidence.pressed(evidence.traffic) is None,
    }
    parts = [text for text, holds in known.items() if holds]
    parts += [f"not known: {text}" for text, holds in unknown.items() if holds]
    if evidence.repeat is not None:
        parts.append(f"the same prompt, sent again at once, hit {evidence.repeat.cached} tokens")
    return LossCause.UNEXPLAINED, "; ".join(parts) or "no rule applies"


RULES: tuple[Callable[[Evidence], Verdict], ...] = (
    _disabled,
    _mixed,
    _restart,
    _unreported,
    _wedged,
    _evicted,
    _other_rank,
    _reset,
    _unexplained,
)


def _growth(before: float | None, after: float | None) -> float | None:
    """None where either is unknown or the counter fell: it began anew in between."""
    if before is None or after is None or after < before:
        return None
    return after - before


def _tokens(count: float | None) -> str:
    return f"{count or 0:.0f} token{'' if count == 1 else 's'}"
