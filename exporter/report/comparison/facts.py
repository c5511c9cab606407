"""What differs between several engines, or one engine with and without its cache. Pure.

Sessions are played in rounds, one on each side in each round. Only differences within a round
count. A round is one observation: its turns are not independent, so its value is the median over
its turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Literal, TypeVar

from exporter.analysis.paired import Difference, Spread, difference, holm, spread
from exporter.analysis.prefill_cost import Point, PrefillCost, points_of, prefill_cost, with_points
from exporter.wording import numbers
from exporter.wording.sentences import in_failed_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.model.reuse import ReuseRule, RuleLoss
    from exporter.model.session import Notice, SessionResult, TurnFacts

T = TypeVar("T")
Quantity = Literal["ttft", "first_ttft", "latency", "hit_ratio"]
_QUANTITIES: tuple[Quantity, ...] = ("ttft", "first_ttft", "latency", "hit_ratio")


@dataclass(frozen=True, slots=True)
class Reading:
    """One turn on one side. Seconds, tokens, a ratio; None is unknown."""

    turn: int
    prompt_tokens: int | None
    cached_tokens: int | None
    hit_ratio: float | None
    ttft_seconds: float | None
    latency_seconds: float | None
    attainable_cached_tokens: int | None = None
    rule_losses: tuple[RuleLoss, ...] = ()


Round = tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Penalty:
    """What a complete miss in a turn after the first costs: all its cached tokens computed again.

    `seconds` comes from the fitted prefill cost, `error_seconds` from its standard error.
    """

    tokens: int
    cost: PrefillCost

    @property
    def seconds(self) -> float:
        return self.tokens * self.cost.seconds_per_token

    @property
    def error_seconds(self) -> float:
        return self.tokens * self.cost.error


@dataclass(frozen=True)
class Side:
    """One side of a comparison. A failed round is None, and `failures` says why. `reuse_rule` is
    the latest that a session showed.

    The prefill cost is fitted to `points`. No slots: the properties are computed once.
    """

    name: str
    source: str
    model: str | None
    engine_version: str | None
    simulated: bool
    scenario: str
    started_time: float
    rounds: tuple[Round | None, ...]
    points: tuple[Point, ...] = ()
    failures: tuple[str, ...] = ()
    notices: frozenset[Notice] = frozenset()
    reuse_rule: ReuseRule | None = None

    @cached_property
    def finished(self) -> list[Round]:
        """The rounds that did not fail."""
        return [one for one in self.rounds if one is not None]

    @cached_property
    def later(self) -> list[Reading]:
        """The turns after the first, of all rounds."""
        return [each for one in self.finished for each in later(one)]

    @cached_property
    def ttfts(self) -> list[float]:
        """Every time to first token of the turns after the first."""
        return _known([each.ttft_seconds for each in self.later])

    @cached_property
    def spreads(self) -> dict[Quantity, Spread]:
        """What is known of each quantity."""
        values: dict[Quantity, list[float | None]] = {
            "ttft": [each.ttft_seconds for each in self.later],
            "latency": [each.latency_seconds for each in self.later],
            "first_ttft": [_of_round("first_ttft", one) or None for one in self.finished],
            "hit_ratio": [_of_round("hit_ratio", one) for one in self.finished],
        }
        found = {quantity: spread(_known(each)) for quantity, each in values.items()}
        return {quantity: each for quantity, each in found.items() if each is not None}

    @cached_property
    def penalty(self) -> Penalty | None:
        """None if the points show no cost, or if no turn hit."""
        hits = _known([each.cached_tokens for each in self.later])
        cost = prefill_cost(self.points)
        if cost is None or not hits or not median(hits):
            return None
        return Penalty(round(median(hits)), cost)

    @cached_property
    def first_prompt_tokens(self) -> int | None:
        """Of the first turn, in the median."""
        prompts = _known([r.prompt_tokens for one in self.finished for r in one if r.turn == 1])
        return round(median(prompts)) if prompts else None

    @cached_property
    def given_up(self) -> float:
        """What the reuse rule gives up in a turn after the first, in the mean."""
        tokens = [part.tokens for each in self.later for part in each.rule_losses]
        return sum(tokens) / max(1, len(self.later))

    @property
    def missed(self) -> bool:
        """Whether all cached tokens are known, and are 0 in every turn after the first."""
        return {each.cached_tokens for each in self.later} == {0}


@dataclass(frozen=True, slots=True)
class Contrast:
    """One side minus the first side. `adjusted_p` is corrected for the number of sides.

    `miss_seconds` is the measured TTFT that a miss adds. It is known if one of the two served
    nothing in all turns after the first and the other did serve.
    """

    name: str
    ttft_by_round: tuple[float, ...]
    differences: dict[Quantity, Difference]
    adjusted_p: dict[Quantity, float | None]
    miss_seconds: Difference | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """`sides` in the order given; `contrasts` has one for each side but the first.

    `cold`: the sides are the turns of one engine and their cold controls.
    """

    sides: tuple[Side, ...]
    contrasts: tuple[Contrast, ...]
    interleaved: bool
    cold: bool = False

    @property
    def rounds(self) -> int:
        """With the failed ones."""
        return max(len(side.rounds) for side in self.sides)

    @property
    def turns(self) -> int:
        return max((r.turn for side in self.sides for one in side.finished for r in one), default=0)

    @property
    def started_time(self) -> float:
        return min(side.started_time for side in self.sides)

    @property
    def simulated(self) -> bool:
        return any(side.simulated for side in self.sides)

    @property
    def whole(self) -> bool:
        """Whether every session finished and TTFT could be compared for every side."""
        return not any(side.failures for side in self.sides) and all(
            "ttft" in each.differences for each in self.contrasts
        )


def side_of(name: str, source: str, sessions: Sequence[SessionResult]) -> Side:
    """One side. `sessions` are in the order of their rounds."""
    return _side(name, source, sessions, _reading)


def cold_sides(source: str, sessions: Sequence[SessionResult]) -> tuple[Side, Side]:
    """Turns with a cold control, and these controls: the same messages under a new salt.

    A turn without a cold control is on neither side. The first turn is cold anyway, and is on both.
    """
    return (
        _side("cached", source, sessions, _reading, _has_control),
        _side("cold", source, sessions, _cold_reading, _has_control),
    )


def compare(sides: Sequence[Side], *, interleaved: bool, cold: bool = False) -> Comparison:
    """Compare every side with the first. `cold`: the sides are those of `cold_sides`."""
    first, *others = sides
    raw = [_differences(first, side, cold=cold) for side in others]
    adjusted = {
        quantity: holm([found[quantity].p if quantity in found else None for found in raw])
        for quantity in _QUANTITIES
    }
    contrasts = [
        Contrast(
            name=side.name,
            ttft_by_round=_by_round("ttft", first, side),
            differences=found,
            adjusted_p={quantity: adjusted[quantity][place] for quantity in found},
            miss_seconds=_miss(first, side, found.get("ttft")),
        )
        for place, (side, found) in enumerate(zip(others, raw, strict=True))
    ]
    return Comparison(tuple(sides), tuple(contrasts), interleaved, cold)


def paired_rounds(first: Side, other: Side) -> list[tuple[Round, Round]]:
    """The rounds that finished on both sides."""
    pairs = zip(first.rounds, other.rounds, strict=False)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def later(readings: Sequence[Reading]) -> list[Reading]:
    """The turns that can hit."""
    return [each for each in readings if each.turn > 1]


def _known(values: Sequence[T | None]) -> list[T]:
    return [value for value in values if value is not None]


def _side(
    name: str,
    source: str,
    sessions: Sequence[SessionResult],
    read: Callable[[TurnFacts], Reading],
    chosen: Callable[[TurnFacts], bool] = lambda _turn: True,
) -> Side:
    named = next((each for each in sessions if each.model is not None), sessions[0])
    finished = (each for each in sessions if each.failure is None)
    return Side(
        name=name,
        source=source,
        model=named.model,
        engine_version=named.engine_version,
        simulated=any(each.simulated for each in sessions),
        scenario=named.scenario,
        started_time=min(each.started_time for each in sessions),
        rounds=tuple(
            None if each.failure is not None else tuple(map(read, filter(chosen, each.turns)))
            for each in sessions
        ),
        points=with_points((), [point for each in finished for point in points_of(each.turns)]),
        failures=tuple(
            f"{source}: a session failed{in_failed_turn(each)}: "
            f"{numbers.spaced(each.failure.reason)} ({each.failure.detail})"
            for each in sessions
            if each.failure is not None
        ),
        notices=frozenset().union(*(each.notices for each in sessions)),
        reuse_rule=next((each.reuse_rule for each in reversed(sessions) if each.reuse_rule), None),
    )


def _reading(turn: TurnFacts) -> Reading:
    return Reading(
        turn.index,
        turn.prompt_tokens,
        turn.cached_tokens,
        turn.hit_ratio,
        turn.ttft_seconds,
        turn.latency_seconds,
        turn.attainable_cached_tokens,
        turn.rule_losses,
    )


def _cold_reading(turn: TurnFacts) -> Reading:
    """A control's latency is not measured. The first turn is its own control."""
    if turn.index == 1 or turn.control is None:
        return _reading(turn)
    return Reading(turn.index, turn.control.prompt_tokens, 0, 0.0, turn.cold_ttft_seconds, None)


def _has_control(turn: TurnFacts) -> bool:
    return turn.index == 1 or turn.cold_ttft_seconds is not None


def _differences(first: Side, other: Side, *, cold: bool) -> dict[Quantity, Difference]:
    """The known differences. With `cold` only TTFT: the first turn is the same request on both
    sides, and a control caches nothing by definition.
    """
    found: dict[Quantity, Difference] = {}
    for quantity in ("ttft",) if cold else _QUANTITIES:
        one = difference(_by_round(quantity, first, other))
        if one is not None:
            found[quantity] = one
    return found


def _by_round(quantity: Quantity, first: Side, other: Side) -> tuple[float, ...]:
    """Other minus first, for each round that finished on both sides."""
    return tuple(_known([_within(quantity, a, b) for a, b in paired_rounds(first, other)]))


def _within(quantity: Quantity, one: Round, other: Round) -> float | None:
    """Other minus one in a round, over the turns that both have."""
    turns = {each.turn for each in one} & {each.turn for each in other}
    mine = [each for each in one if each.turn in turns]
    theirs = [each for each in other if each.turn in turns]
    if quantity in {"first_ttft", "hit_ratio"}:
        before, after = _of_round(quantity, mine), _of_round(quantity, theirs)
        return None if before is None or after is None else after - before
    pairs = [
        (_seconds(quantity, a), _seconds(quantity, b))
        for a, b in zip(later(mine), later(theirs), strict=True)
    ]
    known = [b - a for a, b in pairs if a is not None and b is not None]
    return median(known) if known else None


def _seconds(quantity: Quantity, reading: Reading) -> float | None:
    return reading.ttft_seconds if quantity == "ttft" else reading.latency_seconds


def _of_round(quantity: Quantity, readings: Sequence[Reading]) -> float | None:
    """The value of a quantity that a round has only once."""
    if quantity == "first_ttft":
        return next((each.ttft_seconds for each in readings if each.turn == 1), None)
    cached = [each.cached_tokens for each in later(readings)]
    prompts = [each.prompt_tokens for each in later(readings)]
    if not cached or None in cached or None in prompts:
        return None
    return sum(each or 0 for each in cached) / max(1, sum(each or 0 for each in prompts))


def _miss(first: Side, other: Side, ttft: Difference | None) -> Difference | None:
    """The TTFT of the side that missed, minus that of the other."""
    cached = {each.cached_tokens for side in (first, other) for each in side.later}
    if ttft is None or first.missed == other.missed or None in cached:
        return None
    return ttft if other.missed else difference(_by_round("ttft", other, first))
