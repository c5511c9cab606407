"""Sends requests to an engine, and settles the cached tokens of their answers.

Where an answer does not report its cached tokens, later answers or the engine's counters settle
them (analysis/hits/usage_details.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from exporter.analysis.hits.counted_hits import (
    counted_hits,
    counters_include,
    external_hits,
    has_store,
    may_have_store,
    no_hits,
    ran_alone,
)
from exporter.analysis.hits.usage_details import SilentAnswer, UsageReports
from exporter.analysis.own_share import OwnShare
from exporter.analysis.reuse.learning import hints_of
from exporter.probe.engine_requests import one_engine
from exporter.probe.replicas import BETWEEN_READINGS_SECONDS, COUNTED_READINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.engine.wire.request import ChatRequest, Deadlines
    from exporter.model.chat import Chat, Usage
    from exporter.model.engine import EngineInfo, EngineSnapshot, EngineView
    from exporter.probe.engine_requests import EngineRequests, Identity

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Given:
    """An answer that did not report cached tokens, and its usage as returned last."""

    usage: Usage
    silent: SilentAnswer


class RequestScope:
    """Sends the requests of one session, isolation test or retention round.

    What an answer shows is kept for the engine process, or for this scope while the process is
    unknown. `sent_tokens` are prompt and completion tokens of all its requests.
    """

    def __init__(self, requests: EngineRequests, info: EngineInfo, view: EngineView | None) -> None:
        """`view` is a new reading."""
        self._requests = requests
        self._info = info
        self._reports = UsageReports()  # of this scope alone
        self._given: dict[int, _Given] = {}  # by the identity of the usage
        self._pending: list[tuple[Usage, Identity]] = []  # no reading succeeded after them yet
        snapshot = view.snapshot if view else None
        if snapshot is not None and snapshot.cache is not None:
            requests.knowledge.hints = hints_of(snapshot)  # before hits are recalled
        self._process = self._known = requests.note_process(view)
        self.sent_tokens = 0
        requests.client.note_process(requests.process)

    async def chat(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None = None,
    ) -> Chat:
        """As `EngineClient.chat`, with cached tokens wherever they are known."""
        # Counters cannot tell apart two requests that run at the same time.
        alone_here = self._requests.share.in_flight == 0
        wanted = self._counters_may_help() or may_have_store(self._requests.latest)
        before = await self._reading_before() if alone_here and wanted else None
        sent_to = self._known
        chat = await self._requests.chat(request, deadlines, on_token)
        self.sent_tokens += chat.tokens
        usage = chat.usage
        if usage is not None and usage.cached_tokens is not None:
            self._note_report(usage.cached_tokens)
        if usage is None or usage.transferred or chat.failure is not None:
            return chat
        if usage.cached_tokens is not None:
            return replace(chat, usage=await self._split(usage, before)) if usage.store else chat
        silent = await self._settle(usage, before, sent_to)
        known = self._told(silent)
        self._given[id(known)] = _Given(known, silent)
        return replace(chat, usage=known)

    def settled(self, usage: Usage) -> Usage:
        """The usage of an answer of this scope, by all that is known now."""
        given = self._given_for(usage)
        if given is None:
            return usage
        known = self._told(given.silent)
        if known == usage:
            return usage
        del self._given[id(usage)]
        self._given[id(known)] = _Given(known, given.silent)
        return known

    def _told(self, silent: SilentAnswer) -> Usage:
        """Its usage by all that is known now; what another engine computed is no hit."""
        usage = silent.settled(from_counters=self._requests.from_counters)
        return self._requests.knowledge.hits_only(usage) or usage

    def lacks(self, usage: Usage) -> bool:
        """Whether this answer should have reported its cached tokens, and did not."""
        given = self._given_for(usage)
        return given is not None and given.silent.reports.lacks(self._info.version)

    def _given_for(self, usage: Usage) -> _Given | None:
        given = self._given.get(id(usage))
        return given if given is not None and given.usage is usage else None

    def _counters_may_help(self) -> bool:
        requests = self._requests
        reports = self._reports if self._process is None else requests.reports
        wanted = requests.from_counters and (reports.silent or not reports.reported_zero)
        return wanted or reports.counters_may_help(self._info.version)

    async def _reading_before(self) -> EngineSnapshot | None:
        """A reading that includes all earlier requests; None if there is none."""
        requests = self._requests
        for attempt in range(1 if requests.counters_lag else COUNTED_READINGS):
            if attempt:
                await requests.clock.sleep(BETWEEN_READINGS_SECONDS)
            snapshot = await self._read()
            if snapshot is None or snapshot.hit_tokens is None:
                return None
            if requests.complete:
                requests.counters_lag = False
                return snapshot
        requests.stop_waiting()
        return None

    def _note_report(self, cached_tokens: int) -> None:
        for reports in self._current():
            reports.add(cached_tokens)
            if reports.absent_is_zero and reports.unsettled:
                self._requests.add_share(OwnShare(settled=reports.unsettled))
                reports.unsettled = 0

    async def _split(self, usage: Usage, before: EngineSnapshot | None) -> Usage:
        """The usage with the part of its cached tokens that came through a KV connector, if the
        counters show it.
        """
        external = await self._external(usage, before)
        if not has_store(self._requests.latest):
            external, usage = None, replace(usage, store=False)  # the first prompt looked none up
        elif external is None:
            return usage
        split = replace(usage, external_tokens=external)
        self._requests.add_share(
            OwnShare(
                external_tokens=external or 0,
                unsplit=-int(bool(usage.cached_tokens)),
                written_tokens=self._correction(usage, split),
            )
        )
        return split

    def _correction(self, usage: Usage, known: Usage) -> int:
        """The change of the written tokens of a request of which more is known now."""
        return self._requests.written(known) - self._requests.written(usage)

    async def _external(self, usage: Usage, before: EngineSnapshot | None) -> int | None:
        prompt, cached = usage.prompt_tokens, usage.cached_tokens or 0
        if not cached and has_store(self._requests.latest):
            return 0
        if before is None:
            return None

        def told(now: EngineSnapshot) -> int | None:
            if not cached:
                return 0 if counters_include(before, now, prompt) else None
            return external_hits(before, now, prompt, cached)

        return await self._once_counted(before, await self._read(), prompt, told)

    async def _settle(
        self, usage: Usage, before: EngineSnapshot | None, sent_to: Identity | None
    ) -> SilentAnswer:
        """Settle an answer without cached tokens as far as that is possible now.

        It belongs to the process that a reading right after it shows, because no process starts
        within milliseconds. If that reading fails, it belongs to `sent_to`, the process before it,
        provided that a later reading shows that process again.
        """
        after = await self._read()
        if not has_store(self._requests.latest):
            usage = replace(usage, store=False)
        reports = self._current() or [UsageReports()]
        if self._process is None and sent_to is not None:
            self._pending.append((usage, sent_to))
        silent = SilentAnswer(usage, reports[0])
        if before is not None:
            silent = await self._by_counters(silent, before, after)
        for each in reports:
            each.silent = True
            each.hid_hit = each.hid_hit or bool(silent.counted)
        self._count_hits(silent)
        return silent

    def _count_hits(self, silent: SilentAnswer) -> None:
        told, usage = 0 if silent.reports.absent_is_zero else silent.known, silent.usage
        if told is None or (told and self._requests.knowledge.transfers):
            silent.reports.unsettled += 1
            return
        external = silent.external if told and usage.store else 0
        known = replace(usage, cached_tokens=told, external_tokens=external)
        self._requests.add_share(
            OwnShare(
                settled=1,
                hit_tokens=told,
                external_tokens=external or 0,
                unsplit=int(external is None),
                written_tokens=self._correction(usage, known),
            )
        )

    def _settle_pending(self) -> None:
        """Settle the answers whose process was unknown until now."""
        for usage, sent_to in self._pending:
            given = self._given_for(usage)
            if given is not None and sent_to == self._process:
                silent = replace(given.silent, reports=self._requests.reports)
                silent.reports.silent = True
                self._given[id(usage)] = _Given(usage, silent)
                self._count_hits(silent)
        self._pending.clear()

    async def _by_counters(
        self, silent: SilentAnswer, before: EngineSnapshot, after: EngineSnapshot | None
    ) -> SilentAnswer:
        """Add what the counters say, once they include this prompt."""
        prompt = silent.usage.prompt_tokens

        def told(now: EngineSnapshot) -> SilentAnswer | None:
            counted = counted_hits(before, now, prompt)
            found = replace(
                silent,
                no_hits=no_hits(before, now, prompt),
                counted=counted,
                external=None if counted is None else external_hits(before, now, prompt, counted),
            )
            return None if found.known is None else found

        return await self._once_counted(before, after, prompt, told) or silent

    async def _once_counted(
        self,
        before: EngineSnapshot,
        after: EngineSnapshot | None,
        prompt: int,
        told: Callable[[EngineSnapshot], _T | None],
    ) -> _T | None:
        """What `told` says of the first reading from `after` on of which it says something."""
        requests, found = self._requests, None
        left = 1 if requests.counters_lag else COUNTED_READINGS
        while after is not None and before.process_start_time == after.process_start_time:
            found = told(after)
            included, left = counters_include(before, after, prompt), left - 1
            if (
                found is not None
                or left == 0
                or (included and not ran_alone(before, after, prompt))
            ):
                requests.counters_lag = not included
                break
            await requests.clock.sleep(BETWEEN_READINGS_SECONDS)
            after = await self._read()
        return found

    def _current(self) -> list[UsageReports]:
        """The reports that an answer now belongs to. The first ones settle it."""
        if self._process is not None:
            return [self._requests.reports, self._reports]
        return [self._reports] if self._known is None else []  # the process may be a new one

    async def _read(self) -> EngineSnapshot | None:
        """A new reading. It also shows which process answers."""
        view = await self._requests.observe()
        self._process = self._requests.note_process(view)
        if self._process is not None:
            if self._known not in (None, self._process):
                self._reports = UsageReports()
            self._known = self._process
            self._settle_pending()
        return one_engine(view)
