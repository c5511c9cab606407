"""The targets that run: which begin, end or begin anew when the list of them changes.

All or nothing: every new target is made before one that runs is touched, and whatever can be wrong
with it shows then. A target whose settings are the same, down to the content of the files that they
name, runs on as if nothing had been asked. One whose settings changed gets new loops and
connections; while its engine is the same (URL and mode), its counters and history go on, and so do
the totals carried over the engine's restarts, the spent budget, and its container. Of one that is
gone, or that is another engine now, every series and session is dropped, and a managed container is
left, stopped or removed as at the end of the daemon.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from exporter.daemon.running import FirstRuns, Identity, Running
from exporter.daemon.stagger import among
from exporter.errors import ConfigError, ExporterError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from exporter.config import Target
    from exporter.daemon.shared_settings import SharedSettings
    from exporter.daemon.target_context import TargetContext

log = structlog.get_logger(__name__)

FIRST_LOOK_SECONDS = 0.02
"""From the first reading of one target to that of the next, when many begin: each is known soon,
and a thousand do not come down on the loop at once."""

FIRST_SESSION_SECONDS = 0.5
"""From the first session of one target whose address changed to that of the next."""

_SHOWN = 20  # names in a line of the log


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of each target, by name."""

    added: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.retired or self.changed)

    def in_words(self) -> str:
        """How many targets were added, retired, changed and kept."""
        return (
            f"{len(self.added)} targets added, {len(self.retired)} retired, "
            f"{len(self.changed)} changed, {len(self.kept)} kept"
        )

    def shown(self) -> dict[str, str | int]:
        """For the log: the first names of each that are many, and how many stayed."""
        lists = {"added": self.added, "retired": self.retired, "changed": self.changed}
        return {
            **{key: _first(names) for key, names in lists.items() if names},
            "kept": len(self.kept),
        }


def _first(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """Every target that is wanted: those that run and stay, and those that were made for it."""

    shared: SharedSettings
    kept: tuple[Running, ...]
    made: tuple[Running, ...]


class Fleet:
    """Owns the running targets. `apply` says which there are; `halt` and then `close` end all."""

    def __init__(self, shared: SharedSettings, context: TargetContext) -> None:
        self._shared = shared
        self._context = context
        self._running: dict[str, Running] = {}
        self._open: set[Running] = set()  # made and not closed yet, running or not
        self._one_at_a_time = asyncio.Lock()
        self._swapping: asyncio.Task[Changes] | None = None
        self._ending = False

    @property
    def shared(self) -> SharedSettings:
        """The rules in force."""
        return self._shared

    @property
    def names(self) -> tuple[str, ...]:
        """The targets that run."""
        return tuple(self._running)

    async def apply(
        self,
        targets: Sequence[Target],
        shared: SharedSettings | None = None,
        *,
        commit: Callable[[], Awaitable[None]] | None = None,
    ) -> Changes:
        """Run exactly these targets from now on, under these rules or those in force.

        Without `rules` nothing was read again: whoever runs with the same settings stays, whatever
        became of the files that they name. A certificate that is being exchanged must not keep
        those out that were found meanwhile.

        `commit` is awaited when all that can be wrong with them has shown, and nothing was done.
        Raises `ConfigError` with every mistake, or what `commit` raises; then all is as it was.
        """
        async with self._one_at_a_time:
            plan = await self.prepare(targets, shared)
            try:
                if commit is not None:
                    await commit()
            except BaseException:
                await self._discard(plan.made)
                raise
            return await self.swap(plan)

    async def prepare(
        self, targets: Sequence[Target], shared: SharedSettings | None = None
    ) -> Plan:
        """Make what is new, without a word to anybody. Raises `ConfigError` with every mistake."""
        read_again = shared is not None
        if shared is None or shared == self._shared:
            shared = self._shared  # with the places that those who stay hold their readings to
        files = {each.ca_file for each in targets if each.ca_file is not None}
        authorities = await asyncio.to_thread(_contents, files) if files else {}
        kept, made, mistakes = list[Running](), list[Running](), list[str]()
        for target in targets:
            await asyncio.sleep(0)  # a large fleet must not hold up those who run
            before = self._running.get(target.name)
            authority = authorities.get(target.ca_file, "")
            if before is not None and not read_again:
                authority = before.identity.authority
            identity = Identity(target, shared, authority)
            if before is not None and before.identity == identity:
                kept.append(before)
                continue
            try:
                made.append(Running(identity, self._context, before))
            except ExporterError as error:
                mistakes.append(str(error))
        if mistakes:
            await self._discard(made)
            raise ConfigError("\n".join(mistakes))
        self._open.update(made)
        return Plan(shared, tuple(kept), tuple(made))

    async def swap(self, plan: Plan) -> Changes:
        """Carry a plan out. What goes wrong with one target's end is logged, and stops nothing.

        To cancel this does not cancel what it began: half a swap would leave targets behind.
        """
        self._swapping = asyncio.create_task(self._swap(plan), name="fleet:swap")
        return await asyncio.shield(self._swapping)

    async def _swap(self, plan: Plan) -> Changes:
        turns = self._turns(plan)
        self._shared = plan.shared
        staying = {each.target.name for each in (*plan.kept, *plan.made)}
        gone = [each for name, each in self._running.items() if name not in staying]
        changes = Changes(
            added=tuple(_names(plan.made, but=self._running)),
            retired=tuple(_names(gone)),
            changed=tuple(name for name in _names(plan.made) if name in self._running),
            kept=tuple(_names(plan.kept)),
        )
        with self._context.metrics.targets_swapped(len(staying)):
            await self._carry_out(gone, plan.made, turns)
        if changes:
            log.info("fleet.changed", **changes.shown())
        return changes

    async def _carry_out(
        self, gone: Iterable[Running], made: Iterable[Running], turns: Mapping[str, FirstRuns]
    ) -> None:
        async with asyncio.TaskGroup() as swaps:
            for each in gone:
                swaps.create_task(self._retire(each), name=f"retire:{each.target.name}")
                await asyncio.sleep(0)  # as in `prepare`
            for each in made:
                name = each.target.name
                swaps.create_task(self._begin(each, turns[name]), name=f"begin:{name}")
                await asyncio.sleep(0)

    async def halt(self) -> None:
        """End all loops. Nothing begins from here on."""
        self._ending = True
        await asyncio.gather(*(each.halt() for each in self._open))

    async def close(self) -> None:
        """After `halt`: close every connection, and do with containers what their settings say."""
        self._ending = True
        if self._swapping is not None:
            await asyncio.wait({self._swapping})  # to cancel this wait does not cancel the swap
        await asyncio.gather(*(self._close(each) for each in tuple(self._open)))

    async def _retire(self, running: Running) -> None:
        await running.halt()
        name = running.target.name
        self._running.pop(name, None)
        self._context.metrics.target_removed(name)
        self._context.history.forget(name)
        await self._close(running)

    async def _begin(self, running: Running, turns: FirstRuns) -> None:
        name = running.target.name
        before = self._running.get(name)
        ended = set[str]() if before is None else await self._end_for(before, running)
        if self._ending:
            return
        self._running[name] = running
        for loop in ended - running.start(turns):
            self._context.metrics.loop_gone(loop)

    async def _end_for(self, before: Running, running: Running) -> set[str]:
        """End a target in favour of itself with other settings. Returns the names of its loops."""
        running.take_over_container(before)
        ended = await before.halt()
        if running.same_engine(before):
            running.take_over(before)
        else:
            self._context.metrics.target_removed(before.target.name)
            self._context.history.forget(before.target.name)
        await self._close(before)
        return ended

    async def _discard(self, made: Iterable[Running]) -> None:
        for each in made:
            await self._close(each)

    async def _close(self, running: Running) -> None:
        try:
            await running.close()
        except Exception:  # one that ends badly must not keep others from it
            log.exception("target.close_failed", target=running.target.name)
        self._open.discard(running)

    # When each has its turn

    def _turns(self, plan: Plan) -> Mapping[str, FirstRuns]:
        now, probe, scrape = self._context.clock.monotonic(), plan.shared.probe, plan.shared.scrape
        staying = {each.target.name: self._running.get(each.target.name) for each in plan.made}
        kept_due = [each.session_due_at for each in plan.kept]
        same_interval = probe.interval_seconds == self._shared.probe.interval_seconds
        own = dict[str, float]()  # those that changed and do not join as new ones
        for place, each in enumerate(plan.made):
            name, before = each.target.name, staying[each.target.name]
            if before is not None and not each.same_engine(before):
                # Nothing is known of the engine at the new address, and somebody waits for it.
                own[name] = place * FIRST_SESSION_SECONDS % probe.interval_seconds
            elif before is not None and same_interval and before.session_due_at is not None:
                own[name] = min(max(0.0, before.session_due_at - now), probe.interval_seconds)
        new = [name for name in staying if name not in own]
        due = [*(at - now for at in kept_due if at is not None), *own.values()]
        sessions = own | dict(zip(new, among(due, len(new), probe.interval_seconds), strict=True))
        read_due = [at - now for each in plan.kept if (at := each.scrape_due_at) is not None]
        seconds = among(read_due, len(staying), scrape.interval_seconds)
        return {
            name: _with_first_look(sessions[name], second, order, scrape.interval_seconds)
            for order, (name, second) in enumerate(zip(staying, seconds, strict=True))
        }


def _with_first_look(session: float, place: float, order: int, interval: float) -> FirstRuns:
    """`place` is where its reading belongs in the interval; the first one does not wait for it."""
    first = min(place, order * FIRST_LOOK_SECONDS)
    soon = place - first < interval / 2
    return FirstRuns(session, first, place + interval if soon else place)


def _names(some: Iterable[Running], but: Iterable[str] = ()) -> list[str]:
    return [each.target.name for each in some if each.target.name not in but]


def _contents(files: Iterable[Path]) -> dict[Path | None, str]:
    """A digest of each file; one that cannot be read has none, and its reader will say why."""
    found: dict[Path | None, str] = {}
    for file in files:
        try:
            found[file] = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError:
            continue
    return found
