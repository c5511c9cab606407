"""The sink that turns records into metrics: keeps the latest of each target, exposes on demand.

Families are built anew at each collection from what is known then, so whatever goes quiet
disappears and nothing freezes. All calls come from the event loop's thread.
"""

from __future__ import annotations

import platform
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.registry import Collector

import exporter
from exporter.metrics.families.tables import EXPORTER, LOOPS, TARGET_FAMILIES
from exporter.metrics.samples import add, empty
from exporter.metrics.state.target import DiscoveryState, ExporterState, TargetState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from exporter.analysis.own_share import OwnShare
    from exporter.container.decide.records import ContainerView
    from exporter.metrics.state.cost import Prices
    from exporter.metrics.state.target import Loops
    from exporter.model.engine import EngineView
    from exporter.model.probe import IsolationReading, PauseReason, RetentionReading
    from exporter.model.session import SessionResult

log = structlog.stdlib.get_logger(__name__)


class Registry(CollectorRegistry):
    """A registry that knows its collectors one by one, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self.collectors.append(collector)


def new_registry() -> Registry:
    """A registry with the `process_*` families: what the exporter itself costs."""
    registry = Registry()
    ProcessCollector(registry=registry)
    return registry


TARGET_LOOPS = frozenset({"scrape", "probe", "retention", "isolation", "supervise"})
"""Kinds of the loops that a target has: such a loop is called KIND:NAME. Any other loop is one of
the exporter itself."""


WHOLE_PAGE_TARGETS = 100
"""Targets whose families stand together on one page, where nothing else is said."""


class Metrics(Collector):
    """Every `vllm_*` family of this program, in the registry that is passed in.

    What is said of a target that was not added, or that was removed, is dropped.

    Turns above `turn_label_limit` have no series of their own; they count in every sum. Above
    `whole_page_targets` targets /metrics shows none of them: each has a page of its own.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        turn_label_limit: int = 32,
        whole_page_targets: int = WHOLE_PAGE_TARGETS,
    ) -> None:
        self._turn_label_limit = turn_label_limit
        self._whole_page_targets = whole_page_targets
        self._targets: dict[str, TargetState] = {}
        self._swaps = 0
        self._exporter = ExporterState(exporter.__version__, platform.python_version())
        registry.register(self)

    @property
    def targets(self) -> Mapping[str, TargetState]:
        """The state of each target by name, to be read only."""
        return MappingProxyType(self._targets)

    @property
    def exporter(self) -> ExporterState:
        """What the exporter knows of itself, to be read only."""
        return self._exporter

    def target_added(self, name: str, *, mode: str = "external", url: str | None = None) -> None:
        """Begin the counters of a target at zero. Adding one that is there changes nothing.

        `url` is for people: whatever in it could be a secret is not kept.
        """
        if name not in self._targets:
            self.add(TargetState(name, mode, url))

    def add(self, target: TargetState) -> None:
        """Publish a target from now on."""
        target.turn_label_limit = self._turn_label_limit
        self._targets[target.name] = target
        self._counted()

    def target_removed(self, name: str) -> None:
        """Drop everything about a target: its series end, and those of its loops.

        What its loops still say afterwards is not heard. One that is not there changes nothing.
        """
        self._targets.pop(name, None)
        self._counted()

    @contextmanager
    def targets_swapped(self, wanted: int) -> Iterator[None]:
        """Within it targets come and go until there are `wanted`.

        Old and new ones stand side by side for a moment; a fleet at its limit must not lose its
        whole page for that, so it is by what there will be, or at the end by what there is.
        """
        if wanted > self._whole_page_targets:
            self._decide_page(wanted)
        self._swaps += 1
        try:
            yield
        finally:
            self._swaps -= 1
            self._counted()

    def session_finished(self, result: SessionResult) -> None:
        if (target := self._target(result.target)) is not None:
            target.session_finished(result)

    def engine_scraped(self, view: EngineView) -> None:
        if (target := self._target(view.target)) is not None:
            target.engine_scraped(view)

    def target_budget(self, name: str, tokens_per_hour: int | None, prices: Prices) -> None:
        """What the probe may ask of a target, None without a limit, and what the target costs."""
        if (target := self._target(name)) is not None:
            target.cost.budget_tokens_per_hour, target.cost.prices = tokens_per_hour, prices

    def sessions_every(self, name: str, interval_seconds: float) -> None:
        """How long it is from session to session, unless something holds the probe back."""
        if (target := self._target(name)) is not None:
            target.interval_seconds = interval_seconds

    def retention_wanted(self, name: str, gaps_seconds: Collection[float]) -> None:
        """The gaps that are measured from now on. What is known of any other is no news of it."""
        if (target := self._target(name)) is not None:
            target.cost.keep_retention(gaps_seconds)

    def scenarios_wanted(self, name: str, scenarios: Collection[str]) -> None:
        """Set the scenarios that are played; drops values of scenarios no longer played."""
        if (target := self._target(name)) is not None:
            target.keep_scenarios(scenarios)

    def gate_looked(
        self, name: str, paused: PauseReason | None, until: float | None = None
    ) -> None:
        """Sessions of a target are held back for a reason, as far as is known until Unix time
        `until`, or not.
        """
        if (target := self._target(name)) is not None:
            target.admission_checked(paused, until)

    def salts_tried(self, reading: IsolationReading) -> None:
        if (target := self._target(reading.target)) is not None:
            target.isolation_tested(reading)

    def retention_read(self, reading: RetentionReading) -> None:
        if (target := self._target(reading.target)) is not None:
            target.retention_measured(reading)

    def consumed(self, name: str, tokens: int) -> None:
        """Tokens of a request that belongs to no session."""
        if (target := self._target(name)) is not None:
            target.tokens_consumed(tokens)

    def engine_asked(self, name: str, change: OwnShare) -> None:
        """What the exporter asked of a target's engine changed its own share by so much."""
        if (target := self._target(name)) is not None:
            target.own_share_changed(change)

    def container_changed(self, view: ContainerView) -> None:
        if (target := self._target(view.target)) is not None:
            target.container_changed(view)

    def loop_ran(self, loop: str, time: float) -> None:
        """A loop came round at Unix time `time`, whatever it found."""
        if (loops := self._loops(loop)) is not None:
            loops.ran(loop, time)

    def loop_failed(self, loop: str) -> None:
        """A round of a loop ended in an exception that nobody expected."""
        if (loops := self._loops(loop)) is not None:
            loops.failed(loop)

    def loop_gone(self, loop: str) -> None:
        """A loop does not run any more: its series end."""
        if (loops := self._loops(loop)) is not None:
            loops.gone(loop)

    def limit_whole_page(self, targets: int) -> None:
        """From now on one page has the families of at most so many targets."""
        self._whole_page_targets = targets
        self._counted()

    def limit_turns(self, turn_label_limit: int) -> None:
        """From now on turns above this one have no series of their own."""
        self._turn_label_limit = turn_label_limit
        for target in self._targets.values():
            target.turn_label_limit = turn_label_limit

    def config_loaded(self, time: float) -> None:
        """The configuration that the program begins with came into force at Unix time `time`."""
        self._exporter.reloads.in_force(time)

    def config_reloaded(self, time: float) -> None:
        """The configuration was read again and came into force at Unix time `time`."""
        self._exporter.reloads.in_force(time)
        self._exporter.reloads.outcomes["success"] += 1

    def config_refused(self) -> None:
        """The configuration was read again and cannot be in force."""
        self._exporter.reloads.last_successful = False
        self._exporter.reloads.outcomes["failure"] += 1

    def discovery_added(self, source: str, reasons: Iterable[str]) -> None:
        """A source of targets is asked from now on; `reasons` are those that it can fail for.

        One that is there keeps its counts.
        """
        zeros = dict.fromkeys(map(str, reasons), 0)
        self._exporter.discovery.setdefault(source, DiscoveryState(zeros))

    def discovery_answered(
        self, source: str, *, targets: int, left_out: Mapping[str, int], time: float
    ) -> None:
        """A source answered at Unix time `time`; `left_out` counts by reason."""
        if (state := self._exporter.discovery.get(source)) is not None:
            state.targets, state.last_success_time = targets, time
            state.left_out = {str(reason): count for reason, count in left_out.items()}

    def discovery_failed(self, source: str, reason: str) -> None:
        """A look at a source failed."""
        if (state := self._exporter.discovery.get(source)) is not None:
            state.failures[str(reason)] = state.failures.get(str(reason), 0) + 1

    def discovery_gone(self, source: str) -> None:
        """A source is not asked any more: its series end, and that of its loop."""
        self._exporter.discovery.pop(source, None)
        self.loop_gone(f"discovery:{source}")

    def web_config_looked_at(self, *, in_force: bool) -> None:
        """Whether what the web configuration's file says now is in force."""
        self._exporter.web_config_in_force = in_force

    def _target(self, name: str) -> TargetState | None:
        """None where it was removed: a session that was under way then may end after that."""
        found = self._targets.get(name)
        if found is None:
            log.debug("metrics.no_such_target", target=name)
        return found

    def _loops(self, loop: str) -> Loops | None:
        """Those that a loop stands among; None where its target was removed."""
        kind, colon, name = loop.partition(":")
        if not colon or kind not in TARGET_LOOPS:
            return self._exporter.loops
        target = self._target(name)
        return None if target is None else target.loops

    def _counted(self) -> None:
        self._exporter.targets = len(self._targets)
        if not self._swaps:
            self._decide_page(len(self._targets))

    def _decide_page(self, targets: int) -> None:
        state, before = self._exporter, self._exporter.whole_page
        state.whole_page = targets <= self._whole_page_targets
        if state.whole_page != before:
            say = log.info if state.whole_page else log.warning
            say(
                "metrics.whole_page" if state.whole_page else "metrics.page_of_each_target",
                targets=targets,
                whole_page_targets=self._whole_page_targets,
            )

    def describe(self) -> Iterator[Metric]:
        """Every family without values, which tells a registry the names."""
        for family in TARGET_FAMILIES:
            yield empty(family, "target")
        for about_exporter in EXPORTER:
            yield empty(about_exporter)
        for about_loops in LOOPS:
            yield empty(about_loops)

    def collect(self) -> Iterator[Metric]:
        """Every family that has a value now, of all targets: what exposition.py writes in parts."""
        return (metric for metric in self._families() if metric.samples)

    def _families(self) -> Iterator[Metric]:
        for family in TARGET_FAMILIES:
            metric = empty(family, "target")
            for name, state in self._targets.items():
                add(metric, family.reader.read(state), name)
            yield metric
        for about_exporter in EXPORTER:
            metric = empty(about_exporter)
            add(metric, about_exporter.reader.read(self._exporter))
            yield metric
        for about_loops in LOOPS:
            metric = empty(about_loops)
            add(metric, about_loops.reader.read(self._exporter.loops))
            for state in self._targets.values():
                add(metric, about_loops.reader.read(state.loops))
            yield metric
