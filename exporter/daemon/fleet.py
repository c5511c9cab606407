"""Starts, stops and replaces running targets when the list of targets changes.

All or nothing: every new target is created before a running one is touched, so mistakes show first.

- An unchanged target keeps running: same settings, and same content of the files that they name.
- A target with other prices or labels keeps running, and they apply from now on.
- Any other changed target gets new loops and connections. While its engine is the same (URL and
  mode), it keeps its counters and history, the totals over engine restarts, the spent budget, and
  its container.
- A removed target, or one whose engine changed, loses its series and sessions. A managed container
  is left, stopped or removed, as when the daemon stops.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from exporter.daemon.running import FirstRuns, RunningTarget, TargetSpec
from exporter.daemon.stagger import among
from exporter.errors import ConfigError, ExporterError
from exporter.model.on_demand import STOPPING, OnDemandAnswer, OnDemandOutcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from exporter.config import Target
    from exporter.daemon.shared_settings import SharedSettings
    from exporter.daemon.target_context import TargetContext

log = structlog.get_logger(__name__)

FIRST_SCRAPE_SECONDS = 0.02
"""Between the first scrapes of two new targets. Each target is known soon, and a thousand targets
do not block the event loop."""

FIRST_SESSION_SECONDS = 0.5
"""Between the first sessions of two targets whose address changed."""

_LOGGED_NAMES = 20


@dataclass(frozen=True, slots=True)
class FleetChanges:
    """The names of the targets, by what happened to them."""

    added: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.retired or self.changed)

    def in_words(self) -> str:
        """How many targets were added, retired, changed and kept."""
        return (
            f"targets: {len(self.added)} added, {len(self.retired)} retired, "
            f"{len(self.changed)} changed, {len(self.kept)} kept"
        )

    def log_fields(self) -> dict[str, str | int]:
        """Names (at most 20 of each list), and the number of kept targets."""
        lists = {"added": self.added, "retired": self.retired, "changed": self.changed}
        return {
            **{key: _first(names) for key, names in lists.items() if names},
            "kept": len(self.kept),
        }


def _first(names: Sequence[str]) -> str:
    more = len(names) - _LOGGED_NAMES
    return ", ".join(names[:_LOGGED_NAMES]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """All wanted targets: `kept` ones run already, `created` ones do not run yet.

    `republished` holds the kept ones with other prices or labels, and their new settings.
    """

    shared: SharedSettings
    kept: tuple[RunningTarget, ...]
    created: tuple[RunningTarget, ...]
    republished: tuple[tuple[RunningTarget, Target], ...]


class Fleet:
    """Owns the running targets. `apply` changes them; `stop` and then `close` end all."""

    def __init__(self, shared: SharedSettings, context: TargetContext) -> None:
        self._shared = shared
        self._context = context
        self._running: dict[str, RunningTarget] = {}
        self._open: set[RunningTarget] = set()  # created and not closed yet, running or not
        self._one_at_a_time = asyncio.Lock()
        self._swapping: asyncio.Task[FleetChanges] | None = None
        self._ending = False

    @property
    def shared(self) -> SharedSettings:
        """The shared settings in force."""
        return self._shared

    @property
    def names(self) -> tuple[str, ...]:
        """The running targets."""
        return tuple(self._running)

    async def play_on_demand(
        self, target: str, scenario: str | None, timeout_seconds: float
    ) -> OnDemandAnswer:
        """Play one session for a client. Raises `NoSuchScenarioError`."""
        running = self._running.get(target)
        if running is None or self._ending:
            return OnDemandAnswer(target, OnDemandOutcome.REFUSED, STOPPING)
        return await running.play_on_demand(scenario, timeout_seconds)

    async def apply(
        self,
        targets: Sequence[Target],
        shared: SharedSettings | None = None,
        *,
        commit: Callable[[], Awaitable[None]] | None = None,
    ) -> FleetChanges:
        """Run exactly these targets, with `shared` or with the shared settings in force.

        Without `shared` (targets from discovery) the files that settings name do not count as
        changed: a certificate that is being replaced must not block newly found targets.

        `commit` runs after all targets are created and before any running one changes. Raises
        `ConfigError` with every mistake, or what `commit` raises; then nothing has changed.
        """
        async with self._one_at_a_time:
            plan = await self.prepare(targets, shared)
            try:
                if commit is not None:
                    await commit()
            except BaseException:
                await self._discard(plan.created)
                raise
            return await self.swap(plan)

    async def prepare(
        self, targets: Sequence[Target], shared: SharedSettings | None = None
    ) -> FleetPlan:
        """Create the new targets without starting them. Raises `ConfigError` with every mistake."""
        read_again = shared is not None
        if shared is None or shared == self._shared:
            shared = self._shared  # kept targets hold slots of its scrape limiter
        files = {each.ca_file for each in targets if each.ca_file is not None}
        authorities = await asyncio.to_thread(_contents, files) if files else {}
        kept, created, mistakes = list[RunningTarget](), list[RunningTarget](), list[str]()
        republished: list[tuple[RunningTarget, Target]] = []
        for target in targets:
            await asyncio.sleep(0)  # a large fleet must not block the event loop
            before = self._running.get(target.name)
            authority = authorities.get(target.ca_file, "")
            if before is not None and not read_again:
                authority = before.spec.authority
            spec = TargetSpec(target, shared, authority)
            if before is not None and before.spec.runs_like(spec):
                kept.append(before)
                if before.target != target:
                    republished.append((before, target))
                continue
            try:
                created.append(RunningTarget(spec, self._context, before))
            except ExporterError as error:
                mistakes.append(str(error))
        if mistakes:
            await self._discard(created)
            raise ConfigError("\n".join(mistakes))
        self._open.update(created)
        return FleetPlan(shared, tuple(kept), tuple(created), tuple(republished))

    async def swap(self, plan: FleetPlan) -> FleetChanges:
        """Carry out a plan. An error while one target stops is logged; the rest goes on.

        Cancelling this call does not cancel the swap: half a swap would leave targets running.
        """
        self._swapping = asyncio.create_task(self._swap(plan), name="fleet:swap")
        return await asyncio.shield(self._swapping)

    async def _swap(self, plan: FleetPlan) -> FleetChanges:
        first_runs = self._first_runs(plan)
        self._shared = plan.shared
        staying = {each.target.name for each in (*plan.kept, *plan.created)}
        gone = [each for name, each in self._running.items() if name not in staying]
        for running, target in plan.republished:
            running.set_published(target)
        republished = _names(running for running, _ in plan.republished)
        restarted = [name for name in _names(plan.created) if name in self._running]
        changes = FleetChanges(
            added=tuple(_names(plan.created, but=self._running)),
            retired=tuple(_names(gone)),
            changed=(*restarted, *republished),
            kept=tuple(_names(plan.kept, but=republished)),
        )
        with self._context.metrics.swap(len(staying)):
            await self._carry_out(gone, plan.created, first_runs)
        if changes:
            log.info("fleet.changed", **changes.log_fields())
        return changes

    async def _carry_out(
        self,
        gone: Iterable[RunningTarget],
        created: Iterable[RunningTarget],
        first_runs: Mapping[str, FirstRuns],
    ) -> None:
        async with asyncio.TaskGroup() as swaps:
            for each in gone:
                swaps.create_task(self._retire(each), name=f"retire:{each.target.name}")
                await asyncio.sleep(0)  # as in `prepare`
            for each in created:
                name = each.target.name
                swaps.create_task(self._begin(each, first_runs[name]), name=f"begin:{name}")
                await asyncio.sleep(0)

    async def stop(self) -> None:
        """Stop all loops. No target starts after this."""
        self._ending = True
        await asyncio.gather(*(each.stop() for each in self._open))

    async def close(self) -> None:
        """Close every connection after `stop`, and handle containers as their settings say."""
        self._ending = True
        if self._swapping is not None:
            await asyncio.wait({self._swapping})  # cancelling the wait does not cancel the swap
        await asyncio.gather(*(self._close(each) for each in tuple(self._open)))

    async def _retire(self, running: RunningTarget) -> None:
        await running.stop()
        name = running.target.name
        self._running.pop(name, None)
        self._context.metrics.remove(name)
        self._context.history.forget(name)
        await self._close(running)

    async def _begin(self, running: RunningTarget, first_runs: FirstRuns) -> None:
        name = running.target.name
        before = self._running.get(name)
        if before is not None:
            await self._end_for(before, running)
        if not self._ending:
            self._running[name] = running
            running.start(first_runs)

    async def _end_for(self, before: RunningTarget, running: RunningTarget) -> None:
        """Stop a target that continues as `running`."""
        running.continue_container_of(before)
        await before.stop()
        if running.same_engine(before):
            running.continue_from(before)
        else:
            self._context.metrics.remove(before.target.name)
            self._context.history.forget(before.target.name)
        await self._close(before)

    async def _discard(self, created: Iterable[RunningTarget]) -> None:
        for each in created:
            await self._close(each)

    async def _close(self, running: RunningTarget) -> None:
        try:
            await running.close()
        except Exception:  # must not keep other targets open
            log.exception("target.close_failed", target=running.target.name)
        self._open.discard(running)

    def _first_runs(self, plan: FleetPlan) -> Mapping[str, FirstRuns]:
        now, probe, scrape = self._context.clock.monotonic(), plan.shared.probe, plan.shared.scrape
        staying = {each.target.name: self._running.get(each.target.name) for each in plan.created}
        kept_due = [each.session_due_at for each in plan.kept]
        same_interval = probe.interval_seconds == self._shared.probe.interval_seconds
        # Session times of changed targets. All others join as new ones, also those whose session
        # waits for a limit: they would all start at once.
        own = dict[str, float]()
        for place, each in enumerate(plan.created):
            name, before = each.target.name, staying[each.target.name]
            if before is not None and not each.same_engine(before):
                # Nothing is known about the new engine yet: probe it soon.
                own[name] = place * FIRST_SESSION_SECONDS % probe.interval_seconds
            elif before is not None and same_interval and before.session_due_in(now) > 0:
                own[name] = min(before.session_due_in(now), probe.interval_seconds)
        new = [name for name in staying if name not in own]
        due = [*(at - now for at in kept_due if at is not None), *own.values()]
        sessions = own | dict(zip(new, among(due, len(new), probe.interval_seconds), strict=True))
        read_due = [at - now for each in plan.kept if (at := each.scrape_due_at) is not None]
        seconds = among(read_due, len(staying), scrape.interval_seconds)
        return {
            name: _with_first_scrape(sessions[name], second, order, scrape.interval_seconds)
            for order, (name, second) in enumerate(zip(staying, seconds, strict=True))
        }


def _with_first_scrape(session: float, place: float, order: int, interval: float) -> FirstRuns:
    """`place` is the target's time in the scrape interval. The first scrape may be earlier."""
    first = min(place, order * FIRST_SCRAPE_SECONDS)
    soon = place - first < interval / 2
    return FirstRuns(session, first, place + interval if soon else place)


def _names(some: Iterable[RunningTarget], but: Iterable[str] = ()) -> list[str]:
    return [each.target.name for each in some if each.target.name not in but]


def _contents(files: Iterable[Path]) -> dict[Path | None, str]:
    """A digest of each readable file. Whoever reads an unreadable one reports why."""
    found: dict[Path | None, str] = {}
    for file in files:
        try:
            found[file] = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError:
            continue
    return found
