"""The users' share of an engine's counters: their growth minus the exporter's own share. Pure.

Only scrapes count at which the counters contain all of the exporter's own requests
(`OwnShare.quiet`), so a scrape during an own prompt gives no tokens to users. Growth between two
scrapes counts for nobody if the own share is unknown (a request failed or was cancelled), if the
engine restarted, or if its lookups were left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.engine.metrics import windows
from exporter.model.engine import EngineTotals
from exporter.model.session import LossCause, Notice

if TYPE_CHECKING:
    from exporter.analysis.own_share import OwnShare
    from exporter.model.engine import EngineView
    from exporter.model.session import SessionResult

_MISSED_LOOKS = 3
_MISSED_SECONDS = 60.0
"""After so many scrapes over so many seconds without the own prompts, they are not only late."""
_ELSEWHERE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class _Mark:
    """A scrape that contains all own requests."""

    at: float
    totals: EngineTotals
    own: OwnShare
    restarts: int
    recounts: int


@dataclass(frozen=True, slots=True)
class Growth:
    """What users added between two scrapes, in tokens; None is unknown.

    `hit` and `saved` came from the engine's own cache, `external` from a tier below it. `served`
    are the hits in all tiers.
    """

    queried: float | None = None
    hit: float | None = None
    saved: float | None = None
    external: float | None = None
    served: float | None = None


@dataclass(slots=True)
class UsersShare:
    """One target. The sums are None until first known, and never fall.

    `queried_tokens` and `hit_tokens` count the same times, so one divided by the other is a true
    ratio. `external_tokens` are hits in a tier below the engine's own cache. `elsewhere_at` is when
    the counters last missed the exporter's own prompts: then they belong to another engine than the
    one that answers.
    """

    queried_tokens: float | None = None
    hit_tokens: float | None = None
    saved_tokens: float | None = None
    external_tokens: float | None = None
    elsewhere_at: float | None = None
    known: bool = False
    _mark: _Mark | None = None
    _at: float = 0.0
    _missed: int = 0
    _missed_at: float = 0.0
    _hidden: bool = False  # an interval without users showed it
    _unreported: bool = False  # a session showed it
    _unknown: bool = False  # a session showed several engines, or work of another engine
    _samples: tuple[windows.Sample, ...] = ()
    _effective: tuple[windows.Sample, ...] = ()  # with hits in external tiers

    def session_finished(self, result: SessionResult) -> None:
        """What a session shows about the counters is valid until the next one finishes."""
        if result.failure is not None:
            return
        self._unknown = not result.notices.isdisjoint({Notice.MIXED, Notice.TRANSFER})
        causes = {turn.loss.cause for turn in result.turns if turn.loss is not None}
        self._unreported = LossCause.UNREPORTED in causes

    def engine_scraped(self, view: EngineView, own: OwnShare) -> float | None:
        """Add a scrape. Returns the tokens that users saved since the last one, if known.

        `own` is the exporter's share until now.
        """
        snapshot = view.snapshot
        if snapshot is None:
            return None
        self._at = snapshot.at
        self.known = self._may_be_known(view)
        if not self.known:
            self._mark, self._samples, self._effective = None, (), ()
            return None
        # The page can be as old as the scrape took.
        if view.lookups_open or not own.quiet(snapshot.at - snapshot.scrape_seconds):
            return None
        now = _Mark(snapshot.at, view.totals, own, view.restarts, view.recounts)
        before = self._mark
        if before is None:
            self._mark = now
            return self._add(Growth())
        self._hidden = _hidden(before, now, self._hidden)
        growth = _growth(before, now, hidden=self._hidden or self._unreported)
        if growth is None:
            self._lacks_own(now)
            return None
        self._mark, self._missed = now, 0
        if now.recounts != before.recounts:
            # The lookups left out are no typical part of the traffic.
            self._samples = self._effective = ()
        return self._add(growth)

    def hit_ratios(self) -> dict[str, float]:
        """Hits / lookups of users by window, without windows that have no traffic of theirs."""
        return windows.hit_ratios(self._samples, at=self._at)

    def effective_hit_ratios(self) -> dict[str, float]:
        """The same with hits in external tiers."""
        return windows.hit_ratios(self._effective, at=self._at)

    def _may_be_known(self, view: EngineView) -> bool:
        """Whether the counters are those of the one engine that answers."""
        since = self.elsewhere_at
        elsewhere = since is not None and self._at - since < _ELSEWHERE_SECONDS
        page = view.snapshot
        relayed = page is not None and bool(page.parts) and not page.own_pages
        return not (elsewhere or view.mixed or relayed or self._unknown)

    def _add(self, growth: Growth) -> float | None:
        if growth.queried is not None and growth.hit is not None:
            self.queried_tokens = (self.queried_tokens or 0.0) + growth.queried
            self.hit_tokens = (self.hit_tokens or 0.0) + growth.hit
        same = self._effective is self._samples and growth.served == growth.hit
        self._samples = self._observed(self._samples, growth.queried, growth.hit)
        if same:
            self._effective = self._samples  # without an external store both take the room of one
        else:
            self._effective = self._observed(self._effective, growth.queried, growth.served)
        if growth.external is not None:
            self.external_tokens = (self.external_tokens or 0.0) + growth.external
        if growth.saved is not None:
            self.saved_tokens = (self.saved_tokens or 0.0) + growth.saved
        return growth.saved

    def _observed(
        self, samples: tuple[windows.Sample, ...], queried: float | None, hit: float | None
    ) -> tuple[windows.Sample, ...]:
        """The samples with one more; growth that is not known counts as no traffic."""
        known = queried is not None and hit is not None and 0 <= hit <= queried
        before = samples[-1] if samples else windows.Sample(self._at, 0.0, 0.0)
        sums = EngineTotals(
            queried_tokens=before.queried + (queried or 0.0 if known else 0.0),
            hit_tokens=before.hit + (hit or 0.0 if known else 0.0),
        )
        return windows.observe(samples, sums, at=self._at, whole=True)

    def _lacks_own(self, now: _Mark) -> None:
        """The counters contain less than the exporter asked: they are late, or another engine's."""
        if not self._missed:
            self._missed_at = now.at
        self._missed += 1
        if self._missed >= _MISSED_LOOKS and now.at - self._missed_at >= _MISSED_SECONDS:
            self.elsewhere_at, self._missed = now.at, 0
            self._mark, self._samples, self._effective, self.known = None, (), (), False


def _hidden(before: _Mark, now: _Mark, known: bool) -> bool:
    """Whether own requests hit more than their answers report, as when a gateway rewrites answers.

    Only an interval without users shows it.
    """
    own_queried = now.own.queried_tokens - before.own.queried_tokens
    own_hit = now.own.hit_tokens - before.own.hit_tokens
    others = _less(before.totals.queried_tokens, now.totals.queried_tokens, own_queried)
    more = _served(before.totals, now.totals, own_hit)
    if more is None:
        more = _less(before.totals.hit_tokens, now.totals.hit_tokens, own_hit)
    if not own_queried or others != 0 or more is None or now.own.unknown != before.own.unknown:
        return known
    return more > 0


def _growth(before: _Mark, now: _Mark, *, hidden: bool) -> Growth | None:
    """None if the engine counted less than the exporter asked."""
    own, earlier = now.own, before.own
    if now.restarts != before.restarts or own.unknown != earlier.unknown:
        return Growth()
    own_queried = own.queried_tokens - earlier.queried_tokens
    own_hit = own.hit_tokens - earlier.hit_tokens
    own_external = own.external_tokens - earlier.external_tokens
    asked = own.requests > earlier.requests
    settled = own.unsettled <= earlier.unsettled and not (hidden and asked)
    split = settled and own.unsplit <= earlier.unsplit
    totals, previous = now.totals, before.totals
    queried = _less(previous.queried_tokens, totals.queried_tokens, own_queried)
    hit = _less(previous.hit_tokens, totals.hit_tokens, own_hit - own_external)
    saved = _less(previous.saved_tokens, totals.saved_tokens, own_hit - own_external)
    external = _less(previous.stored_tokens, totals.stored_tokens, own_external)
    served = _served(previous, totals, own_hit)
    recounted = now.recounts != before.recounts
    if not recounted and queried is not None and queried < 0:
        return None
    if recounted:
        queried = None
    return Growth(
        queried,
        hit if split and _within(hit, queried) else None,
        saved if split and saved is not None and saved >= 0 else None,
        external if split and external is not None and external >= 0 else None,
        served if settled and _within(served, queried) else None,
    )


def _within(hit: float | None, queried: float | None) -> bool:
    return hit is not None and queried is not None and 0 <= hit <= queried


def _served(before: EngineTotals, now: EngineTotals, own: int) -> float | None:
    """The hits of users in all tiers."""
    return _less(before.effective_hit_tokens, now.effective_hit_tokens, own)


def _less(before: float | None, now: float | None, own: int) -> float | None:
    return None if before is None or now is None else now - before - own
