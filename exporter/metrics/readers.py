"""How a metric family reads its values out of the state: labels and a function, as one thing.

Every reader answers "nothing" for what is not known, so that no family has to think of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from exporter.container.decide.records import Cause, DockerProblem, LifecycleState
from exporter.metrics.state.exporter import ExporterState, Loops
from exporter.metrics.state.latency import Distribution
from exporter.metrics.state.target import TargetState, live_engine, live_users

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from exporter.container.decide.records import ContainerSnapshot, ContainerView
    from exporter.metrics.state.users_share import UsersShare
    from exporter.model.engine import EngineSnapshot, EngineTotals
    from exporter.model.session import SessionResult, TurnFacts

Value = float | Distribution | None
Reading = tuple[tuple[str, ...], Value]
StateT = TypeVar("StateT", TargetState, ExporterState, Loops)


@dataclass(frozen=True, slots=True)
class Reader(Generic[StateT]):
    """`read` yields values of `labels`, in their order, and a value, None where it is unknown."""

    labels: tuple[str, ...]
    read: Callable[[StateT], Iterable[Reading]]


@dataclass(frozen=True, slots=True)
class Family(Generic[StateT]):
    """A metric family. One about targets has the label `target` before its reader's labels."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    reader: Reader[StateT]
    help: str


def one(value: Callable[[TargetState], Value]) -> Reader[TargetState]:
    """One value per target."""
    return Reader((), lambda target: [((), value(target))])


def by(
    label: str, values: Callable[[TargetState], Mapping[str, Value] | None]
) -> Reader[TargetState]:
    """One value for each key of a mapping."""
    return Reader((label,), lambda target: [((k,), v) for k, v in (values(target) or {}).items()])


def last_session(value: Callable[[SessionResult], Value]) -> Reader[TargetState]:
    """A value of the last session, if that finished."""
    return one(lambda target: None if (s := target.finished_session) is None else value(s))


def by_scenario(value: Callable[[SessionResult], Value]) -> Reader[TargetState]:
    """A value of the last session of each scenario, if that finished."""

    def read(target: TargetState) -> Iterator[Reading]:
        for session in target.finished:
            yield (session.scenario,), value(session)

    return Reader(("scenario",), read)


def scenarios_up() -> Reader[TargetState]:
    """Whether the last session of each scenario finished."""
    return by(
        "scenario",
        lambda target: {
            name: float(each.failure is None) for name, each in target.scenarios.items()
        },
    )


def each_turn(value: Callable[[TurnFacts], Value]) -> Reader[TargetState]:
    """A value of each turn of the last session of each scenario, if that finished."""

    def read(target: TargetState) -> Iterator[Reading]:
        for session in target.finished:
            for turn in session.turns:
                if turn.index <= target.turn_label_limit:
                    yield (session.scenario, str(turn.index)), value(turn)

    return Reader(("scenario", "turn"), read)


def notices() -> Reader[TargetState]:
    """Those of the sessions whose values are shown."""

    def read(target: TargetState) -> Iterator[Reading]:
        for notice in sorted({notice for each in target.finished for notice in each.notices}):
            yield (notice,), 1

    return Reader(("notice",), read)


def of_users(value: Callable[[UsersShare], Value]) -> Reader[TargetState]:
    """A sum of what users had of the engine, while that can be known."""
    return one(lambda target: None if (users := live_users(target)) is None else value(users))


def scrape(value: Callable[[EngineSnapshot], Value]) -> Reader[TargetState]:
    """A value of the last scrape, if that succeeded."""

    def read(target: TargetState) -> Value:
        view = live_engine(target)
        return None if view is None or view.snapshot is None else value(view.snapshot)

    return one(read)


def totals(value: Callable[[EngineTotals], Value]) -> Reader[TargetState]:
    """A sum carried over the engine's restarts, while the engine answers."""
    return one(lambda target: None if (v := live_engine(target)) is None else value(v.totals))


ENGINE_INFO_LABELS = (
    *("version", "model", "max_model_len", "ranks", "simulated"),
    *("prefix_caching", "block_size", "match_unit", "num_blocks"),
)


def engine_info() -> Reader[TargetState]:
    """What an engine says of itself, as labels; an unknown one is empty, which is no label."""

    def read(target: TargetState) -> Iterator[Reading]:
        view = live_engine(target)
        if view is None:
            return
        snapshot, info = view.snapshot, view.info
        cache = snapshot.cache if snapshot else None
        names = ",".join(snapshot.model_names) if snapshot else None
        known = (
            info.version if info else None,
            info.model if info else names,
            info.max_model_len if info else None,
            snapshot.ranks if snapshot else None,
            info.simulated if info else None,
            cache.prefix_caching if cache else None,
            cache.block_size if cache else None,
            cache.match_unit_tokens if cache else None,
            cache.num_blocks if cache else None,
        )
        yield tuple(map(_label, known)), 1

    return Reader(ENGINE_INFO_LABELS, read)


def _label(value: str | float | None) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def container(value: Callable[[ContainerView], Value]) -> Reader[TargetState]:
    """A value of a target that has a container."""
    return one(lambda target: None if target.container is None else value(target.container))


def inspected(value: Callable[[ContainerSnapshot], Value]) -> Reader[TargetState]:
    """A value that Docker tells, as long as Docker answers."""

    def read(view: ContainerView) -> Value:
        snapshot = None if view.state is LifecycleState.UNKNOWN else view.snapshot
        return None if snapshot is None else value(snapshot)

    return container(read)


def container_states() -> Reader[TargetState]:
    def read(target: TargetState) -> Iterator[Reading]:
        if target.container is not None:
            for state in LifecycleState:
                yield (state,), float(state is target.container.state)

    return Reader(("state",), read)


def by_cause(counts: Callable[[ContainerView], Mapping[str, int]]) -> Reader[TargetState]:
    """Counts by cause; a cause that has not been met is a true zero."""

    def read(target: TargetState) -> Mapping[str, Value]:
        if target.container is None:
            return {}
        return {**dict.fromkeys(map(str, Cause), 0), **counts(target.container)}

    return by("reason", read)


def diagnosis() -> Reader[TargetState]:
    def read(target: TargetState) -> Mapping[str, Value]:
        found = target.container.diagnosis if target.container else None
        return {found.cause: 1} if found else {}

    return by("reason", read)


# Every other problem is an answer of Docker's.
_NO_ANSWER = {
    DockerProblem.UNREACHABLE,
    DockerProblem.PERMISSION_DENIED,
    DockerProblem.TIMEOUT,
    DockerProblem.NO_THREADS,
}


def docker_answers(view: ContainerView) -> float:
    return float(view.docker_problem not in _NO_ANSWER)


def container_info() -> Reader[TargetState]:
    def read(target: TargetState) -> Iterator[Reading]:
        view = target.container
        if view is None or view.snapshot is None or view.state is LifecycleState.UNKNOWN:
            return
        yield (view.mode, view.snapshot.name, view.snapshot.image, view.snapshot.image_id), 1

    return Reader(("mode", "name", "image", "image_id"), read)


def by_loop(values: Callable[[Loops], Mapping[str, float]]) -> Reader[Loops]:
    return Reader(("loop",), lambda state: [((k,), v) for k, v in values(state).items()])


def by_outcome(values: Callable[[ExporterState], Mapping[str, float]]) -> Reader[ExporterState]:
    return Reader(("outcome",), lambda state: [((k,), v) for k, v in values(state).items()])


def of_exporter(value: Callable[[ExporterState], float | None]) -> Reader[ExporterState]:
    """One value about the exporter itself, such as 1 or 0 for what is so or not."""

    def read(state: ExporterState) -> Iterator[Reading]:
        known = value(state)
        yield (), None if known is None else float(known)

    return Reader((), read)


def build_info() -> Reader[ExporterState]:
    return Reader(("version", "python"), lambda state: [((state.version, state.python), 1)])
