"""Learns the reuse rule of one engine process from hits, and from what /metrics tells of it.

The family is closed: a unit, none or one unit dropped, answers kept or not, a look-ahead or none.
What /metrics tells leaves some of it out. The rule is the simplest that explains every hit. It is
taken only on enough evidence, so that a loss is not taken for a rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, product
from math import gcd, isqrt
from typing import TYPE_CHECKING, TypeVar

from exporter.analysis.reuse.rule import Prefix, Rule, Span, served, span_of
from exporter.model.reuse import ReuseRule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from exporter.model.engine import EngineSnapshot

_T = TypeVar("_T")

_HITS = 3
"""Hits that a rule must explain if /metrics leaves other rules open: two agree by chance too often,
as their common divisor is often twice the unit."""
_SHORT_HITS = 3
"""Hits that no rule within the hints explains, before a rule beyond the hints is taken."""
_RETENTION_LABEL = "prefix_cache_retention_interval"


@dataclass(frozen=True, slots=True)
class Observation:
    """What one prompt hit. `disturbed`: something besides the rule may have made it shorter."""

    prefix: Prefix
    cached: int
    disturbed: bool = False

    def fits(self, rule: Rule) -> bool:
        """Whether an engine with this rule can have answered so."""
        span = served(rule, self.prefix)
        return self.cached <= span.most and (self.disturbed or self.cached >= span.least)


@dataclass(frozen=True, slots=True)
class Hints:
    """What /metrics tells of the rule; None is unknown.

    `block` is the unit by the labels. `uneven`: the layers keep different amounts per token, so
    groups slide, are linear or have blocks of other sizes. `speculative`: the engine decodes
    speculatively. `draft_tokens`: how many tokens a draft has. `dense`: each block is kept,
    answers too.
    """

    block: int | None = None
    uneven: bool | None = None
    speculative: bool | None = None
    draft_tokens: int | None = None
    dense: bool | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing but a plain engine fits."""
        return self.uneven is False and self.speculative is False


def hints_of(engine: EngineSnapshot | None) -> Hints:
    """What a reading of /metrics tells of the rule."""
    cache = engine.cache if engine else None
    if engine is None or cache is None:
        return Hints()
    interval = cache.labels.get(_RETENTION_LABEL)
    return Hints(
        block=cache.match_unit_tokens,
        uneven=_uneven(engine),
        speculative=engine.speculative,
        draft_tokens=engine.draft_tokens,
        dense=True if interval == "None" else None,
    )


def _uneven(engine: EngineSnapshot) -> bool | None:
    """Whether `kv_cache_size_tokens` is not `num_gpu_blocks` x `block_size`; None before 0.24."""
    cache = engine.cache
    if cache is None or "kv_cache_size_tokens" not in cache.labels:
        return None
    size, blocks, block = cache.capacity_tokens, cache.num_blocks, cache.block_size
    if size is None or blocks is None or block is None:
        return None
    # With data parallelism the labels hold the blocks of all ranks, but the tokens of one rank.
    return size not in (blocks * block, blocks * block // max(1, engine.ranks))


@dataclass(frozen=True, slots=True)
class Learned:
    """The simplest rule, and the other rules that hits and /metrics leave open."""

    rule: Rule
    others: tuple[Rule, ...] = ()

    def span(self, prefix: Prefix) -> Span:
        """Between how many tokens of a prompt this engine serves, as far as that is known."""
        return span_of((self.rule, *self.others), prefix)

    def rule_for(self, prefix: Prefix, cached: int) -> Rule:
        """The simplest of the rules that explains a hit; the rule itself if none does."""
        seen = Observation(prefix, cached)
        return next((one for one in (self.rule, *self.others) if seen.fits(one)), self.rule)

    def told_apart_by(self, prefix: Prefix) -> bool:
        """Whether what a prompt hits shows which of the rules holds."""
        spans = [served(rule, prefix) for rule in (self.rule, *self.others)]
        return max(span.least for span in spans) > min(span.most for span in spans)

    @property
    def told(self) -> ReuseRule:
        """The rule for publication: what is open is None."""
        rules = (self.rule, *self.others)
        return ReuseRule(
            unit_tokens=_same({rule.unit_tokens for rule in rules}),
            dropped_blocks=_same({rule.dropped_blocks for rule in rules}),
            answers_kept=_same({rule.answers_kept for rule in rules}),
            lookahead_tokens=max(rule.lookahead_tokens for rule in rules),
        )


def _same(values: set[_T]) -> _T | None:
    return next(iter(values)) if len(values) == 1 else None


def learn(observations: Sequence[Observation], hints: Hints) -> Learned | None:
    """The rule of a process; None while it is unknown, or if no rule explains all hits.

    A disturbed hit is only a lower bound of what the rule lets the engine serve: it rules a rule
    out, but shows none. Misses choose between rules that explain all hits: a prompt shorter than a
    large unit hits nothing. Hits that no rule within the hints explains can disprove the hints, on
    more evidence.
    """
    if hints.block is None:
        return None
    hits = [one for one in observations if one.cached > 0]
    sure = [one for one in hits if not one.disturbed]
    misses = [one for one in observations if one.cached <= 0]
    for allowed in (hints, Hints(hints.block, draft_tokens=hints.draft_tokens)):
        rules = list(_family(hits, allowed, hints.block))
        explaining = [rule for rule in rules if all(hit.fits(rule) for hit in hits)]
        if explaining:
            found = _simplest(_by_misses(explaining, misses), allowed, hints.block)
            return found if hints.plain or len(sure) >= _HITS else None
        if any(_few_unexplained(rule, hits) for rule in rules):
            return None
    return None


def _few_unexplained(rule: Rule, hits: Sequence[Observation]) -> bool:
    """Whether fewer hits contradict the rule than it takes to disprove what /metrics tells."""
    unexplained = (hit for hit in hits if not hit.fits(rule))
    return len(list(islice(unexplained, _SHORT_HITS))) < _SHORT_HITS


def _by_misses(rules: Sequence[Rule], misses: Sequence[Observation]) -> list[Rule]:
    """The rules that explain as many of the misses as possible."""
    wrong = [sum(not miss.fits(rule) for miss in misses) for rule in rules]
    fewest = min(wrong)
    return [rule for rule, count in zip(rules, wrong, strict=True) if count == fewest]


def _simplest(open_rules: Sequence[Rule], hints: Hints, block: int) -> Learned:
    least = min(_parts(rule, block) for rule in open_rules)
    rule, *others = [one for one in open_rules if _parts(one, block) == least]
    pointed_at = [
        one
        for one in open_rules
        if one.unit_tokens <= rule.unit_tokens and _points_to(hints, one) and one is not rule
    ]
    return Learned(rule, tuple(dict.fromkeys((*others, *pointed_at))))


def _points_to(hints: Hints, rule: Rule) -> bool:
    """Whether /metrics points to each part of the rule that is not plain."""
    speculative = rule.dropped_blocks > 0 or rule.lookahead_tokens > 0
    return (hints.speculative is True or not speculative) and (
        hints.uneven is True or rule.answers_kept
    )


def _parts(rule: Rule, block: int) -> int:
    """How many parts of the rule are not those of a plain engine."""
    return (
        (rule.unit_tokens != block)
        + bool(rule.dropped_blocks)
        + (not rule.answers_kept)
        + bool(rule.lookahead_tokens)
    )


def _family(hits: Sequence[Observation], hints: Hints, block: int) -> Iterator[Rule]:
    """Every rule that the hints allow, the smallest unit first."""
    may_speculate, may_forget = hints.speculative is not False, hints.uneven is not False
    kept = (True, False) if may_forget and hints.dense is not True else (True,)
    # The end of an answer that is not kept is as long as one step: the draft and one more token.
    # Without the length of the draft any look-ahead up to a unit would explain the loss of a last
    # block, so none is taken.
    step = 0 if hints.draft_tokens is None else hints.draft_tokens + 1
    units = _units(hits, block) if may_forget else [block]
    for unit, keeps, dropped in product(units, kept, (0, 1) if may_speculate else (0,)):
        yield Rule(unit, dropped, keeps)
        if not dropped and may_speculate and 0 < step < unit:
            yield Rule(unit, 0, keeps, step)


def _units(hits: Sequence[Observation], block: int) -> list[int]:
    """The units that all hits are multiples of: the label, its multiples, or else any."""
    common = gcd(*(hit.cached for hit in hits))
    if common == 0:
        return [block]
    if common % block == 0:
        return [block * factor for factor in _divisors(common // block)]
    return [unit for unit in _divisors(common) if unit > 1]


def _divisors(number: int) -> list[int]:
    small = [one for one in range(1, isqrt(number) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)})
