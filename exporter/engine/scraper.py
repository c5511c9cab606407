"""The loop that scrapes one engine's /metrics and makes an `EngineView` of each scrape."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from exporter.engine.metrics import exposition, snapshots, totals, windows
from exporter.engine.metrics.histories import Histories, carry_page
from exporter.engine.metrics.lookups import Count, may_recount
from exporter.engine.metrics.scrape_reasons import ScrapeReason, scrape_reason
from exporter.engine.scrape_limiter import ScrapeLimiter
from exporter.errors import EngineUnavailableError, ExpositionError
from exporter.logs import Outage
from exporter.model.engine import (
    OWN_PAGE,
    EngineInfo,
    EngineSnapshot,
    EngineView,
    ScrapeFailure,
    replica_key,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.clock import Clock
    from exporter.engine.sink import EngineSink
    from exporter.loops import LoopHeartbeat
    from exporter.model.engine import PartKey

_NO_VLLM_METRICS = (
    "the page has no metrics of vLLM's engine: start vLLM without --disable-log-stats, "
    "and check that this URL is vLLM's own"
)
_SEVERAL_ENGINES = (
    "several processes answer at this URL in turn, so the counters are not those of one engine: "
    "give each replica behind the load balancer its own target"
)
_NO_REPLICA = (
    "the page has the series of several engines, so it is a router's: name the pages of the "
    "replicas themselves in metrics_urls"
)
MIXED_SECONDS = 600.0
"""Seconds after the last proof for which a URL counts as one with several engines."""
RECOUNTED_SECONDS = max(windows.WINDOWS.values())
"""Seconds for which left-out lookups are reported: as long as a window contains the gap."""


class MetricsSource(Protocol):
    """Where the scraper reads an engine; `EngineClient` is one."""

    async def metrics(self, url: str | None = None, /) -> bytes:
        """The page of vLLM's own /metrics, or that at `url`. Raises `EngineUnavailableError`."""

    async def info(self) -> EngineInfo:
        """The engine's model and version. Raises `EngineUnavailableError`."""


class Scraper:
    """Scrapes one engine every `interval_seconds`, and whenever `refresh` is called.

    Every scrape makes an `EngineView` for `sink`. A failed scrape is a value in it: the view has no
    snapshot and no hit ratios, but keeps the totals. An unexpected exception makes a failed view
    too, is logged with its trace and counted by `heartbeat`, and the loop goes on.

    Each scrape waits for a slot of `limiter`, which other engines may share. This wait counts
    neither towards the timeout nor towards the scrape's duration.

    `replica_pages` are the URLs of all replicas' own pages, by their names. A scrape reads them
    all at once, in place of the source's page. It fails if none of them can be read.
    """

    def __init__(
        self,
        target: str,
        source: MetricsSource,
        clock: Clock,
        *,
        interval_seconds: float,
        timeout_seconds: float,
        sink: EngineSink,
        heartbeat: LoopHeartbeat,
        limiter: ScrapeLimiter | None = None,
        replica_pages: Mapping[str, str] | None = None,
    ) -> None:
        self._target = target
        self._replica_pages = replica_pages or {}
        self._source = source
        self._clock = clock
        self._interval = interval_seconds
        self._timeout = timeout_seconds
        self._sink = sink
        self._heartbeat = heartbeat
        self._limiter = limiter or ScrapeLimiter(1)
        self._slow = False
        self._due_at: float | None = None
        self._log = structlog.get_logger().bind(target=target)
        self._one_at_a_time = asyncio.Lock()
        self._history = Histories()
        self._samples: tuple[windows.Sample, ...] = ()
        self._effective: tuple[windows.Sample, ...] = ()  # with hits in external tiers
        self._info: EngineInfo | None = None
        self._latest: EngineView | None = None
        self._mixed_at: float | None = None
        self._relayed = False
        self._outage = Outage(self._log, failed="scrape.failed", recovered="scrape.recovered")
        self._info_outage = Outage(
            self._log, failed="engine_info.failed", recovered="engine_info.recovered"
        )

    def latest(self) -> EngineView | None:
        """The view of the last scrape, None before the first."""
        return self._latest

    @property
    def due_at(self) -> float | None:
        """When the loop scrapes next, in monotonic seconds; None before it runs."""
        return self._due_at

    def continue_from(self, other: Scraper) -> None:
        """Take over the totals, samples and info of another scraper of the same engine."""
        self._history, self._samples, self._info = other._history, other._samples, other._info
        self._effective = other._effective
        self._latest, self._mixed_at = other._latest, other._mixed_at
        self._relayed = other._relayed

    async def run(self, first: float = 0.0, second: float | None = None) -> None:
        """Scrape in a loop, each round `interval_seconds` after the last one began.

        The first scrape is after `first` seconds and the second after `second` seconds, if given:
        so a fleet has first values soon after the start, and its scrapes are spread evenly later.
        """
        origin = self._clock.monotonic()
        next_after = self._interval if second is None else second - first
        self._due_at = origin + first + next_after
        await self._clock.sleep(first)
        while True:
            began = self._clock.monotonic()
            self._due_at = began + next_after
            with self._heartbeat.guard():
                await self.refresh()
            # Not in `refresh`: a reading for a session must not hide a loop that has stopped.
            self._heartbeat.ran()
            took = self._clock.monotonic() - began
            await self._clock.sleep(max(0.0, next_after - took))
            next_after = self._interval

    async def refresh(self) -> EngineView:
        """Scrape once, now, and publish the view. Exceptions of the sink are raised."""
        async with self._one_at_a_time:
            try:
                view = await self._view(await self._read())
            except Exception as error:  # noqa: BLE001 - becomes a failure in the view; the trace is logged
                self._log.exception("scrape.unexpected_error")
                self._heartbeat.failed()
                # The last view is out of date, so a failed one replaces it.
                view = self._failed(
                    self._failure(ScrapeReason.INTERNAL, f"{type(error).__name__}; see the log")
                )
            self._latest = view
        self._sink.engine_scraped(view)
        return view

    async def _read(self) -> EngineSnapshot | ScrapeFailure:
        async with self._limiter.slot(slow=self._slow):
            outcome = await (self._read_replicas() if self._replica_pages else self._read_page())
        if isinstance(outcome, ScrapeFailure):
            self._slow = outcome.reason == ScrapeReason.TIMEOUT
            return outcome
        self._slow = False
        return outcome if outcome.own_pages else self._judged(outcome)

    async def _read_replicas(self) -> EngineSnapshot | ScrapeFailure:
        """All replicas' pages as one snapshot. Each is judged as an engine's own page."""
        urls = self._replica_pages
        pages = await asyncio.gather(*(self._read_page(url) for url in urls.values()))
        parts: dict[PartKey, EngineSnapshot] = {}
        unread: dict[PartKey, ScrapeFailure] = {}
        for name, page in zip(urls, pages, strict=True):
            key = replica_key(name)
            judged = self._judged(page, key) if isinstance(page, EngineSnapshot) else page
            if isinstance(judged, EngineSnapshot):
                parts[key] = judged
            else:
                unread[key] = replace(judged, detail=f"{urls[name]}: {judged.detail}")
        if not parts:
            return next(iter(unread.values()))
        return snapshots.of_replicas(parts, {key: one.detail for key, one in unread.items()})

    async def _read_page(self, url: str | None = None) -> EngineSnapshot | ScrapeFailure:
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                page = await self._source.metrics(url)
            at = self._clock.monotonic()
            version = self._info.version if self._info else None
            return exposition.parse(page, at=at, scrape_seconds=at - began, version=version)
        except EngineUnavailableError as error:
            return self._failure(scrape_reason(error.reason), error.detail)
        except TimeoutError:
            return self._failure(ScrapeReason.TIMEOUT, f"no whole page within {self._timeout:g} s")
        except ExpositionError as error:
            return self._failure(ScrapeReason.NOT_PROMETHEUS, str(error))

    def _judged(
        self, snapshot: EngineSnapshot, key: PartKey = OWN_PAGE
    ) -> EngineSnapshot | ScrapeFailure:
        """The snapshot if it is one engine's, or that of a router's page. `key`: the replica."""
        if snapshot.ranks == 0:
            return self._failure(ScrapeReason.NO_VLLM_METRICS, _NO_VLLM_METRICS)
        if snapshot.parts and key != OWN_PAGE:
            return self._failure(ScrapeReason.SEVERAL_ENGINES, _NO_REPLICA)
        if snapshot.parts:
            joined = snapshot.parts.keys() - self._history.shown
            if len(snapshot.parts) > 1 or not joined.isdisjoint(self._history.engines):
                self._mixed_at = snapshot.at
            return snapshot
        sole = self._history.of(key)
        returned, alternates = totals.came_back(sole, snapshot), totals.alternates(sole, snapshot)
        if returned or alternates:
            self._mixed_at = snapshot.at
            if alternates:
                self._history = self._history.with_one(key, totals.remember_fall(sole, snapshot))
            return self._failure(ScrapeReason.SEVERAL_ENGINES, _SEVERAL_ENGINES)
        return snapshot

    async def _view(self, outcome: EngineSnapshot | ScrapeFailure) -> EngineView:
        if isinstance(outcome, ScrapeFailure):
            return self._failed(outcome)
        self._outage.ended(outcome.at)
        if self._info is None:
            await self._ask_info()  # the version says how to read the counters
        if self._carry(outcome):
            self._info = None  # another version or model may have come up
            await self._ask_info()
        return self._compose(outcome, None)

    def _failed(self, failure: ScrapeFailure) -> EngineView:
        self._outage.failed(failure.at, failure.reason, failure.detail)
        return self._compose(None, failure)

    def _carry(self, snapshot: EngineSnapshot) -> bool:
        """Add the page to the history. Returns whether the engine restarted."""
        info = self._shown_info(snapshot)  # a router's version says nothing of its engines
        recounts = may_recount(info.version if info else None)
        before = self._history
        self._history = carry_page(before, snapshot, recounts=recounts)
        self._observe_window(snapshot)
        restarted = self._history.restarts > before.restarts
        if restarted:
            self._log.info("engine.restarted", restarts=self._history.restarts)
        if self._history.recounted_at == snapshot.at and not self._recounted(before):
            self._log.warning("engine.lookups_recounted")
        return restarted

    def _observe_window(self, snapshot: EngineSnapshot) -> None:
        count = self._history.count
        if count is Count.OPEN:
            return  # the lookups since the last sample are not settled yet
        sums, known = self._history.totals(), count is Count.KNOWN
        whole = snapshot.queried_tokens is not None and snapshot.hit_tokens is not None
        store_known = snapshot.external_hit_tokens is not None
        same = self._effective is self._samples and sums.effective_hit_tokens == sums.hit_tokens
        self._samples = windows.observe(
            self._samples if known else (), sums, at=snapshot.at, whole=whole
        )
        if same and store_known:
            self._effective = self._samples  # without an external store both take the room of one
            return
        self._effective = windows.observe(
            self._effective if known else (),
            replace(sums, hit_tokens=sums.effective_hit_tokens),
            at=snapshot.at,
            whole=whole and store_known,
        )

    async def _ask_info(self) -> None:
        try:
            async with self._limiter.slot(slow=self._slow), asyncio.timeout(self._timeout):
                self._info = await self._source.info()
        except EngineUnavailableError as error:
            reason, detail = error.reason, error.detail
        except TimeoutError:
            reason, detail = ScrapeReason.TIMEOUT, f"no answer within {self._timeout:g} s"
        else:
            self._info_outage.ended(self._clock.monotonic())
            return
        self._info_outage.failed(self._clock.monotonic(), reason, detail)

    def _compose(
        self, snapshot: EngineSnapshot | None, failure: ScrapeFailure | None
    ) -> EngineView:
        of_all, effective = (
            {} if snapshot is None else windows.hit_ratios(samples, at=snapshot.at)
            for samples in (self._samples, self._effective)
        )
        return EngineView(
            target=self._target,
            snapshot=snapshot,
            failure=failure,
            totals=self._history.totals(),
            hit_ratios=of_all,
            effective_hit_ratios=effective,
            restarts=self._history.restarts,
            info=self._shown_info(snapshot),
            mixed=self._mixed(),
            recounted=self._recounted(self._history),
            recounts=self._history.recounts,
            lookups_open=self._history.count is Count.OPEN,
            replicas=self._history.replicas(),
            histograms=self._history.histograms(),
        )

    def _shown_info(self, snapshot: EngineSnapshot | None) -> EngineInfo | None:
        """The info, but without a version if a router shows the page: it answers with its own."""
        if snapshot is not None:
            self._relayed = bool(snapshot.parts)
        if self._info is None or not self._relayed:
            return self._info
        return replace(self._info, version=None)

    def _mixed(self) -> bool:
        since = self._mixed_at
        return since is not None and self._clock.monotonic() - since < MIXED_SECONDS

    def _recounted(self, history: Histories) -> bool:
        since = history.recounted_at
        return since is not None and self._clock.monotonic() - since < RECOUNTED_SECONDS

    def _failure(self, reason: ScrapeReason, detail: str) -> ScrapeFailure:
        return ScrapeFailure(at=self._clock.monotonic(), reason=reason, detail=detail)
