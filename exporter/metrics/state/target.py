"""What is known of a target now, and its sums since it was added. Pure.

Counts of the exporter's own start at 0. Sums of what an engine reports start as None, because an
engine that never reported a number did not report 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from exporter.analysis.own_share import OwnShare
from exporter.analysis.wedge import wedged_after
from exporter.engine.metrics.scrape_reasons import ScrapeReason
from exporter.metrics.state.cost import CostState
from exporter.metrics.state.exporter import Loops
from exporter.metrics.state.latency import (
    INTER_TOKEN_BOUNDS,
    TTFT_BOUNDS,
    CacheTemperature,
    Distribution,
    temperature,
)
from exporter.metrics.state.probe_sums import ProbeSums
from exporter.metrics.state.session_signs import SessionSigns, signs_of
from exporter.metrics.state.users_share import UsersShare
from exporter.metrics.state.users_ttft import UsersTtft
from exporter.model.failure import FailureReason
from exporter.model.session import Notice
from exporter.scenario.heartbeat import HEARTBEAT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from exporter.analysis.footprint import Footprint
    from exporter.container.decide.records import ContainerView
    from exporter.model.engine import EngineView
    from exporter.model.kv_events import KvEventsView
    from exporter.model.on_demand import OnDemandAnswer
    from exporter.model.probe import Due, IsolationReading, PauseReason, RetentionReading
    from exporter.model.reuse import ReuseRule
    from exporter.model.session import SessionResult, TurnFacts


@dataclass(frozen=True, slots=True)
class LastExit:
    """How a container last ended; it may run again. `why` is None if unknown."""

    time: float
    code: int
    why: str | None


@dataclass(slots=True)
class TargetState:
    """The state of one target, and the sink of all its loops: `ProbeSink`, `SessionSink`,
    `EngineSink`, `KvEventSink` and `ContainerSink`; `loops` is their `LoopSink`.

    `scenarios` has the last session of each scenario, finished or failed, and the last heartbeat
    under its own name. A session or heartbeat that shows that the target itself fails drops all of
    them before it; a heartbeat that found nothing in the cache drops those of sessions, because
    they no longer say what is true. `latest` is the last of both, `last_session` the last session.
    """

    name: str
    mode: str = "external"
    url: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)  # of every series, as configured
    created_time: float | None = None  # Unix time from which its counters count
    turn_label_limit: int = 32
    sessions: int = 0
    failures: dict[FailureReason, int] = field(
        default_factory=lambda: dict.fromkeys(FailureReason, 0)
    )
    last_session: SessionResult | None = None
    latest: SessionResult | None = None
    heartbeats: int = 0
    heartbeat_failures: int = 0
    scenarios: dict[str, SessionResult] = field(default_factory=dict)
    signs: dict[str, SessionSigns] = field(default_factory=dict)  # of the same sessions
    last_success_time: float | None = None  # of a session
    last_heartbeat_time: float | None = None  # of one that succeeded
    due: dict[Due, float] = field(default_factory=dict)  # Unix times
    failures_in_a_row: int = 0
    interval_seconds: float | None = None  # from one session to the next, as configured
    heartbeat_seconds: float | None = None  # from a session to a heartbeat; None sends none
    sums: ProbeSums = field(default_factory=ProbeSums)
    model_sums: dict[str, ProbeSums] = field(default_factory=dict)
    rank_sums: dict[int, ProbeSums] = field(default_factory=dict)  # of pinned sessions, by rank
    own: OwnShare = field(default_factory=OwnShare)
    users: UsersShare = field(default_factory=UsersShare)
    users_ttft: UsersTtft = field(default_factory=UsersTtft)
    isolation_tests: int = 0  # those with a result
    isolation_leaks: int = 0
    wedged: bool | None = None  # by the last test of the running process
    reuse_rule: ReuseRule | None = None  # of the running process, by the last session
    transfers: bool = False  # the running process gets the KV of its prompts from another engine
    ttft: dict[CacheTemperature, Distribution] = field(
        default_factory=lambda: {kind: Distribution(TTFT_BOUNDS) for kind in ("cold", "warm")}
    )
    inter_token: Distribution = field(default_factory=lambda: Distribution(INTER_TOKEN_BOUNDS))
    engine: EngineView | None = None
    scrape_failures: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(map(str, ScrapeReason), 0)
    )
    kv_events: KvEventsView | None = None  # None: they are not asked for
    container: ContainerView | None = None
    last_exit: LastExit | None = None
    cost: CostState = field(default_factory=CostState)
    loops: Loops = field(default_factory=Loops)
    on_demand: OnDemandAnswer | None = None  # only in the state that is made for one answer

    def __post_init__(self) -> None:
        """Remove what could be a secret from the URL: user, password and query."""
        if self.url is not None:
            parts = urlsplit(self.url)
            host = parts.netloc.rpartition("@")[2]
            self.url = urlunsplit((parts.scheme, host, parts.path, "", ""))

    @property
    def leading_labels(self) -> dict[str, str]:
        """The labels of every series of the target, before those of its family."""
        return {"target": self.name, **self.labels}

    def session_finished(self, result: SessionResult) -> None:
        self.latest = result
        if result.reuse_rule is not None or (result.failure is None and not result.heartbeat):
            self.reuse_rule = result.reuse_rule
        if result.failure is None:
            self.failures_in_a_row = 0
        else:
            self._failed(result.failure.reason)
        if result.heartbeat:
            self._heartbeat_finished(result)
        else:
            self._full_session_finished(result)
        self.scenarios[result.scenario] = result
        self.signs[result.scenario] = signs_of(result)
        self.sums.add_beside(result.extra_tokens)
        self._cache_tested(wedged_after(result))
        if Notice.MIXED in result.notices:
            self.cost.retention.clear()
        self.users.session_finished(result)

    def _full_session_finished(self, result: SessionResult) -> None:
        self.last_session = result
        self.sessions += 1
        if result.failure is None:
            self.last_success_time = result.started_time + result.duration_seconds
            self._drop_bad_heartbeat()
        else:
            self.failures[result.failure.reason] += 1
        if result.failure is None or result.reuse_rule is not None:
            self.transfers = Notice.TRANSFER in result.notices
        for turn in result.turns:
            self._add_times(turn)
        self.sums.add(result.turns)
        if result.model is not None:
            self.model_sums.setdefault(result.model, ProbeSums()).add(result.turns)
        if result.data_parallel_rank is not None:
            self.rank_sums.setdefault(result.data_parallel_rank, ProbeSums()).add(result.turns)
        self.cost.session_finished(result)

    def _heartbeat_finished(self, result: SessionResult) -> None:
        """Its short prompts count for what the cache could serve, and not for times or costs."""
        self.heartbeats += 1
        if result.failure is None:
            self.last_heartbeat_time = result.started_time + result.duration_seconds
        else:
            self.heartbeat_failures += 1
        self.sums.add_heartbeat(result.turns)
        signs = signs_of(result)
        if signs.could_hit and signs.missed_all:
            self.scenarios.clear()
            self.signs.clear()

    def _drop_bad_heartbeat(self) -> None:
        """A newer session finished. Where sessions are frequent, no heartbeat replaces it."""
        last, signs = self.scenarios.get(HEARTBEAT.name), self.signs.get(HEARTBEAT.name)
        if last is not None and signs is not None and (last.failure or signs.missed_all):
            del self.scenarios[HEARTBEAT.name], self.signs[HEARTBEAT.name]

    def _failed(self, reason: FailureReason) -> None:
        self.failures_in_a_row += 1
        if reason.concerns_target:
            self.scenarios.clear()
            self.signs.clear()
            self.wedged = self.reuse_rule = None

    def keep_scenarios(self, names: Collection[str]) -> None:
        """Drop the sessions of scenarios that are no longer played."""
        for gone in self.scenarios.keys() - {*names, HEARTBEAT.name}:
            del self.scenarios[gone], self.signs[gone]

    def isolation_tested(self, reading: IsolationReading) -> None:
        if reading.leaked is not None:
            self.isolation_tests += 1
            self.isolation_leaks += reading.leaked
        self._cache_tested(reading.wedged)

    def engine_scraped(self, view: EngineView) -> None:
        if self.engine is not None and view.restarts != self.engine.restarts:
            self.wedged = self.reuse_rule = None  # they were true for another process
            self.transfers = False
        self.engine = view
        if view.failure is not None:
            reason = view.failure.reason
            self.scrape_failures[reason] = self.scrape_failures.get(reason, 0) + 1
        self.cost.engine_scraped(view, self.users.engine_scraped(view, self.own))
        self.users_ttft.engine_scraped(view, self.own, known=self.users.known)

    def kv_events_changed(self, view: KvEventsView) -> None:
        self.kv_events = view

    def container_changed(self, view: ContainerView) -> None:
        self.container = view
        seen = view.snapshot
        if seen is None or seen.exit_code is None or seen.finished_time is None:
            return
        known = self.last_exit
        same = known is not None and known.time == seen.finished_time
        why = known.why if known is not None and same else None
        if view.diagnosis is not None:
            why = view.diagnosis.summary
        self.last_exit = LastExit(seen.finished_time, seen.exit_code, why)

    def retention_measured(self, reading: RetentionReading) -> None:
        # A wedged cache does not show how long a prefix survives, and neither do several engines.
        mixed = self.latest is not None and Notice.MIXED in self.latest.notices
        if not self.wedged and not mixed:
            self.cost.retention_measured(reading)

    def tokens_consumed(self, tokens: int) -> None:
        self.sums.add_beside(tokens)

    def own_share_changed(self, change: OwnShare) -> None:
        self.own = self.own.plus(change)

    def admission_checked(self, reason: PauseReason | None, until: float | None = None) -> None:
        self.cost.admission_checked(reason, until)

    def footprint_changed(self, footprint: Footprint) -> None:
        self.cost.footprint = footprint

    def due_at(self, what: Due, time: float) -> None:
        self.due[what] = time

    def _cache_tested(self, wedged: bool | None) -> None:
        if wedged is not None:
            self.wedged = wedged
        if wedged:
            self.cost.retention.clear()

    def _add_times(self, turn: TurnFacts) -> None:
        if turn.ttft_seconds is not None:
            kind = temperature(turn)
            self.ttft.setdefault(kind, Distribution(TTFT_BOUNDS)).observe(turn.ttft_seconds)
        for gap in turn.inter_token_seconds:
            self.inter_token.observe(gap)

    @property
    def finished_session(self) -> SessionResult | None:
        """The last session of all, if it finished and no heartbeat has failed since."""
        last, latest = self.last_session, self.latest
        sound = latest is not None and latest.failure is None
        return last if sound and last is not None and last.failure is None else None

    @property
    def finished(self) -> Iterator[SessionResult]:
        """The last session of each scenario, if it finished."""
        return (each for each in self.scenarios.values() if each.failure is None)

    @property
    def finished_signs(self) -> Iterator[SessionSigns]:
        """The signs of `finished`."""
        return (self.signs[each.scenario] for each in self.finished)

    @property
    def notices(self) -> list[Notice]:
        """The notices of the last session of each scenario, finished or failed."""
        return sorted({notice for each in self.scenarios.values() for notice in each.notices})

    @property
    def simulated(self) -> bool | None:
        """Whether the engine says that it is a simulator; None before it answered."""
        if self.engine is not None and self.engine.info is not None:
            return self.engine.info.simulated
        return None if self.finished_session is None else self.finished_session.simulated

    @property
    def looked_at(self) -> bool:
        """Whether there is a first result, good or bad: of the engine, and of a container."""
        engine_seen = self.engine is not None or self.latest is not None
        return engine_seen and (self.mode == "external" or self.container is not None)


def live_engine(target: TargetState) -> EngineView | None:
    """The last scrape, if it succeeded: an old one is not shown again."""
    view = target.engine
    return None if view is None or view.failure is not None else view


def external_hit_tokens(target: TargetState) -> float | None:
    """Hits in external tiers, while the engine answers. None where they are transfers."""
    view = None if target.transfers else live_engine(target)
    return None if view is None else view.totals.stored_tokens


def saved_tokens(target: TargetState) -> float | None:
    """Prompt tokens that the engine's own cache saved, while the engine answers.

    None where another engine computes the prompts: there a hit saves a transfer, and no prefill.
    """
    view = None if target.transfers else live_engine(target)
    return None if view is None else view.totals.saved_tokens


def effective_hit_ratios(target: TargetState) -> Mapping[str, float]:
    """The hit ratios over all tiers, by window, while the engine answers and they are known."""
    view = None if target.transfers else live_engine(target)
    return {} if view is None else view.effective_hit_ratios


def live_users(target: TargetState) -> UsersShare | None:
    """The users' share of the engine's counters, while the engine answers and it is known."""
    return target.users if live_engine(target) is not None and target.users.known else None
