"""What a metric family is, and how it reads its values from a state.

Every reader yields nothing for what is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from exporter.metrics.state.exporter import ExporterState, Loops
from exporter.metrics.state.latency import Distribution
from exporter.metrics.state.target import TargetState, live_engine, live_users

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from exporter.metrics.state.users_share import UsersShare
    from exporter.model.engine import EngineSnapshot, EngineTotals
    from exporter.model.session import SessionResult, TurnFacts

Value = float | Distribution | None
Reading = tuple[tuple[str, ...], Value]
StateT = TypeVar("StateT", TargetState, ExporterState, Loops)
LabelT = TypeVar("LabelT", bound=str)


@dataclass(frozen=True, slots=True)
class Reader(Generic[StateT]):
    """`read` yields the values of `labels`, in their order, and a value; None is unknown."""

    labels: tuple[str, ...]
    read: Callable[[StateT], Iterable[Reading]]


@dataclass(frozen=True, slots=True)
class Family(Generic[StateT]):
    """A metric family. One of targets has the label `target` before its reader's labels."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    reader: Reader[StateT]
    help: str


def gauge(name: str, reader: Reader[StateT], meaning: str) -> Family[StateT]:
    return Family(name, "gauge", reader, meaning)


def counter(name: str, reader: Reader[StateT], meaning: str) -> Family[StateT]:
    return Family(name, "counter", reader, meaning)


def histogram(name: str, reader: Reader[StateT], meaning: str) -> Family[StateT]:
    return Family(name, "histogram", reader, meaning)


def one(value: Callable[[StateT], Value]) -> Reader[StateT]:
    """One value per state."""
    return Reader((), lambda state: [((), value(state))])


def by(label: str, values: Callable[[StateT], Mapping[LabelT, Value] | None]) -> Reader[StateT]:
    """One value for each key of a mapping."""
    return Reader((label,), lambda state: [((k,), v) for k, v in (values(state) or {}).items()])


def last_session(value: Callable[[SessionResult], Value]) -> Reader[TargetState]:
    """A value of the last session, if it finished."""
    return one(lambda target: None if (s := target.finished_session) is None else value(s))


def by_scenario(value: Callable[[SessionResult], Value]) -> Reader[TargetState]:
    """A value of the last session of each scenario, if it finished."""

    def read(target: TargetState) -> Iterator[Reading]:
        for session in target.finished:
            yield (session.scenario,), value(session)

    return Reader(("scenario",), read)


def each_turn(value: Callable[[TurnFacts], Value]) -> Reader[TargetState]:
    """A value of each turn of the last session of each scenario, if it finished."""

    def read(target: TargetState) -> Iterator[Reading]:
        for session in target.finished:
            for turn in session.turns:
                if turn.index <= target.turn_label_limit:
                    yield (session.scenario, str(turn.index)), value(turn)

    return Reader(("scenario", "turn"), read)


def scrape(value: Callable[[EngineSnapshot], Value]) -> Reader[TargetState]:
    """A value of the last scrape, if it succeeded."""

    def read(target: TargetState) -> Value:
        view = live_engine(target)
        return None if view is None or view.snapshot is None else value(view.snapshot)

    return one(read)


def totals(value: Callable[[EngineTotals], Value]) -> Reader[TargetState]:
    """A total continued over the engine's restarts, while the engine answers."""
    return one(lambda target: None if (v := live_engine(target)) is None else value(v.totals))


def engine_histogram(key: str) -> Reader[TargetState]:
    """A histogram of the engine's, continued over its restarts, while the engine shows it."""

    def read(target: TargetState) -> Value:
        view = live_engine(target)
        found = None if view is None else view.histograms.get(key)
        return None if found is None else Distribution.of(found)

    return one(read)


def of_users(value: Callable[[UsersShare], Value]) -> Reader[TargetState]:
    """A part of the engine's totals that belongs to users, while it is known."""
    return one(lambda target: None if (users := live_users(target)) is None else value(users))
