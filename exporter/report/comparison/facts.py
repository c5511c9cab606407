"""Several engines, or one with and without its cache, on the same sessions: what differs. Pure.

Sessions are played in rounds, one on each side in each round, and only differences within a round
count. A round is the unit: the turns of one session share its fate, so a round's value is the
median over its turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from exporter.analysis.paired import Difference, Spread, difference, holm, spread
from exporter.analysis.prefill_cost import Point, PrefillCost, points_of, prefill_cost, with_points
from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.model.session import Notice, SessionResult

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


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison. A round that failed here is None, and why stands in `failures`.

    `points` are what the cost of prefill is fitted to.
    """

    name: str
    source: str
    model: str | None
    engine_version: str | None
    simulated: bool
    scenario: str
    rounds: tuple[tuple[Reading, ...] | None, ...]
    points: tuple[Point, ...] = ()
    failures: tuple[str, ...] = ()
    notices: frozenset[Notice] = frozenset()


@dataclass(frozen=True, slots=True)
class Penalty:
    """What one whole miss in the turns after the first costs: all of their cached tokens anew.

    `seconds` is by the fitted line, with the slope's standard error in `error_seconds`.
    """

    tokens: int
    cost: PrefillCost

    @property
    def seconds(self) -> float:
        return self.tokens * self.cost.seconds_per_token

    @property
    def error_seconds(self) -> float:
        return self.tokens * self.cost.error


@dataclass(frozen=True, slots=True)
class Side:
    """What is known of one arm by itself. `first_prompt_tokens` is of the first turn."""

    arm: Arm
    spreads: Mapping[Quantity, Spread]
    penalty: Penalty | None
    first_prompt_tokens: int | None

    @property
    def missed(self) -> bool:
        """Whether not one token was served from cache after the first turns, and all is known."""
        return {each.cached_tokens for each in _later_of(self.arm)} == {0}


@dataclass(frozen=True, slots=True)
class Contrast:
    """A side against the first one: side minus first. `adjusted_p` allows for the number of sides.

    `miss_seconds` is the TTFT that a miss adds, measured: where one of the two served nothing in
    any turn after the first and the other did.
    """

    name: str
    ttft_by_round: tuple[float, ...]
    differences: Mapping[Quantity, Difference]
    adjusted_p: Mapping[Quantity, float | None]
    miss_seconds: Difference | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """`sides` in the order given, `contrasts` for each but the first. `rounds` were begun.

    `cold`: the sides are one engine's turns and their cold controls.
    """

    sides: tuple[Side, ...]
    contrasts: tuple[Contrast, ...]
    rounds: int
    turns: int
    interleaved: bool
    started_time: float
    cold: bool = False

    @property
    def simulated(self) -> bool:
        return any(side.arm.simulated for side in self.sides)

    @property
    def failed(self) -> bool:
        return any(side.arm.failures for side in self.sides)


def arm_of(name: str, source: str, sessions: Sequence[SessionResult]) -> Arm:
    """An arm of sessions that were played, in the order of their rounds."""
    return _arm(name, source, sessions, _warm, _points(sessions))


def cold_arms(source: str, sessions: Sequence[SessionResult]) -> tuple[Arm, Arm]:
    """Turns with a cold control, and these controls: the same messages under a fresh salt.

    A turn without a cold control is in neither, so that the two have the same turns; the first
    turn is cold on both sides, and is on both.
    """
    points = _points(sessions)
    cached = _arm("cached", source, sessions, _with_control, points)
    return cached, _arm("cold", source, sessions, _control, points)


def compare(
    arms: Sequence[Arm], *, started_time: float, interleaved: bool, cold: bool = False
) -> Comparison:
    """All there is to say. `cold`: the arms are those of `cold_arms`."""
    sides = tuple(_side(arm) for arm in arms)
    raw = [_differences(arms[0], arm, cold=cold) for arm in arms[1:]]
    adjusted = {
        quantity: holm([found[quantity].p if quantity in found else None for found in raw])
        for quantity in _QUANTITIES
    }
    contrasts = [
        Contrast(
            name=arm.name,
            ttft_by_round=_by_round("ttft", arms[0], arm),
            differences=found,
            adjusted_p={quantity: adjusted[quantity][place] for quantity in found},
            miss_seconds=_miss(arms[0], arm, found.get("ttft")),
        )
        for place, (arm, found) in enumerate(zip(arms[1:], raw, strict=True))
    ]
    last = max((each.turn for arm in arms for one in arm.rounds for each in one or ()), default=0)
    return Comparison(
        sides=sides,
        contrasts=tuple(contrasts),
        rounds=max((len(arm.rounds) for arm in arms), default=0),
        turns=last,
        interleaved=interleaved,
        started_time=started_time,
        cold=cold,
    )


def later(readings: Sequence[Reading]) -> list[Reading]:
    """The turns that can hit."""
    return [each for each in readings if each.turn > 1]


def ttfts(arm: Arm) -> list[float]:
    """Every time to first token of the turns after the first."""
    return [each.ttft_seconds for each in _later_of(arm) if each.ttft_seconds is not None]


def _arm(
    name: str,
    source: str,
    sessions: Sequence[SessionResult],
    read: Callable[[SessionResult], tuple[Reading, ...]],
    points: tuple[Point, ...],
) -> Arm:
    told = next((each for each in sessions if each.model is not None), sessions[0])
    return Arm(
        name=name,
        source=source,
        model=told.model,
        engine_version=told.engine_version,
        simulated=any(each.simulated for each in sessions),
        scenario=told.scenario,
        rounds=tuple(None if each.failure is not None else read(each) for each in sessions),
        points=points,
        failures=tuple(_failure(source, each) for each in sessions if each.failure is not None),
        notices=frozenset().union(*(each.notices for each in sessions)),
    )


def _failure(source: str, session: SessionResult) -> str:
    failure = session.failure
    if failure is None:
        return ""
    where = "" if session.failed_turn is None else f" in turn {session.failed_turn}"
    return f"{source}: a session failed{where}: {numbers.spaced(failure.reason)} ({failure.detail})"


def _points(sessions: Sequence[SessionResult]) -> tuple[Point, ...]:
    kept: tuple[Point, ...] = ()
    for session in sessions:
        if session.failure is None:
            kept = with_points(kept, points_of(session.turns))
    return kept


def _warm(session: SessionResult) -> tuple[Reading, ...]:
    return tuple(
        Reading(
            turn.index,
            turn.prompt_tokens,
            turn.cached_tokens,
            turn.hit_ratio,
            turn.ttft_seconds,
            turn.latency_seconds,
        )
        for turn in session.turns
    )


def _with_control(session: SessionResult) -> tuple[Reading, ...]:
    chosen = {turn.index for turn in session.turns if turn.cold_ttft_seconds is not None} | {1}
    return tuple(reading for reading in _warm(session) if reading.turn in chosen)


def _control(session: SessionResult) -> tuple[Reading, ...]:
    """A control's latency is not measured."""
    return tuple(
        Reading(turn.index, turn.control.prompt_tokens, 0, 0.0, turn.cold_ttft_seconds, None)
        if turn.control is not None and turn.index > 1
        else _warm(session)[place]
        for place, turn in enumerate(session.turns)
        if turn.index == 1 or turn.cold_ttft_seconds is not None
    )


def _side(arm: Arm) -> Side:
    values: dict[Quantity, list[float]] = {
        "ttft": ttfts(arm),
        "latency": [r.latency_seconds for r in _later_of(arm) if r.latency_seconds is not None],
        "first_ttft": [v for v in (_value("first_ttft", one) for one in _whole(arm)) if v],
        "hit_ratio": [
            v for v in (_value("hit_ratio", one) for one in _whole(arm)) if v is not None
        ],
    }
    spreads = {quantity: spread(known) for quantity, known in values.items()}
    first = [r.prompt_tokens for one in _whole(arm) for r in one if r.turn == 1]
    prompts = [tokens for tokens in first if tokens is not None]
    return Side(
        arm=arm,
        spreads={quantity: found for quantity, found in spreads.items() if found is not None},
        penalty=_penalty(arm),
        first_prompt_tokens=round(median(prompts)) if prompts else None,
    )


def _penalty(arm: Arm) -> Penalty | None:
    """None where the points show no cost, or where no turn hit."""
    hits = [each.cached_tokens for each in _later_of(arm) if each.cached_tokens is not None]
    cost = prefill_cost(arm.points)
    if cost is None or not hits or not median(hits):
        return None
    return Penalty(round(median(hits)), cost)


def _whole(arm: Arm) -> list[tuple[Reading, ...]]:
    return [one for one in arm.rounds if one is not None]


def _later_of(arm: Arm) -> list[Reading]:
    return [each for one in _whole(arm) for each in later(one)]


def _differences(first: Arm, other: Arm, *, cold: bool) -> dict[Quantity, Difference]:
    """By quantity, what is known of it. A first turn is the same request for both arms of `cold`,
    and how much of a control was cached is what makes it one: neither is a difference.
    """
    found: dict[Quantity, Difference] = {}
    for quantity in ("ttft",) if cold else _QUANTITIES:
        told = difference(_by_round(quantity, first, other))
        if told is not None:
            found[quantity] = told
    return found


def _by_round(quantity: Quantity, first: Arm, other: Arm) -> tuple[float, ...]:
    """Other minus first, for each round that finished on both sides."""
    values = [
        _within(quantity, one, another)
        for one, another in zip(first.rounds, other.rounds, strict=False)
        if one is not None and another is not None
    ]
    return tuple(value for value in values if value is not None)


def _within(
    quantity: Quantity, one: tuple[Reading, ...], other: tuple[Reading, ...]
) -> float | None:
    """Other minus one in one round, over the turns that both have."""
    turns = {each.turn for each in one} & {each.turn for each in other}
    mine = [each for each in one if each.turn in turns]
    theirs = [each for each in other if each.turn in turns]
    if quantity in {"first_ttft", "hit_ratio"}:
        before, after = _value(quantity, mine), _value(quantity, theirs)
        return None if before is None or after is None else after - before
    pairs = [
        (_seconds(quantity, a), _seconds(quantity, b))
        for a, b in zip(later(mine), later(theirs), strict=True)
    ]
    known = [b - a for a, b in pairs if a is not None and b is not None]
    return median(known) if known else None


def _seconds(quantity: Quantity, reading: Reading) -> float | None:
    return reading.ttft_seconds if quantity == "ttft" else reading.latency_seconds


def _value(quantity: Quantity, readings: Sequence[Reading]) -> float | None:
    """One round's own value of a quantity that is not taken turn by turn."""
    if quantity == "first_ttft":
        return next((each.ttft_seconds for each in readings if each.turn == 1), None)
    cached = [each.cached_tokens for each in later(readings)]
    prompts = [each.prompt_tokens for each in later(readings)]
    if not cached or None in cached or None in prompts:
        return None
    return sum(each or 0 for each in cached) / max(1, sum(each or 0 for each in prompts))


def _miss(first: Arm, other: Arm, ttft: Difference | None) -> Difference | None:
    """The difference in TTFT as the cost of a miss, the longer minus the shorter in name only."""
    served = [{each.cached_tokens for each in _later_of(arm)} for arm in (first, other)]
    missed = [known == {0} for known in served]
    if ttft is None or missed[0] == missed[1] or None in served[0] | served[1]:
        return None
    if missed[1]:
        return ttft
    low, high = ttft.low, ttft.high
    return Difference(
        -ttft.estimate,
        None if high is None else -high,
        None if low is None else -low,
        ttft.p,
        ttft.pairs,
    )
