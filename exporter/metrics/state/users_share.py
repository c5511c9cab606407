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
_EXTERNAL_SHARE = 1.02
"""With more saved tokens than this many times the hits, an external cache serves some."""


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
    """What users added between two scrapes, in tokens; None is unknown."""

    queried: float | None = None
    hit: float | None = None
    saved: float | None = None


@dataclass(slots=True)
class UsersShare:
    """One target. The sums are None until first known, and never fall.

    `queried_tokens` and `hit_tokens` count the same times, so one divided by the other is a true
    ratio. `elsewhere_at` is when the counters last missed the exporter's own prompts: then they
    belong to another engine than the one that answers.
    """

    queried_tokens: float | None = None
    hit_tokens: float | None = None
    saved_tokens: float | None = None
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
            self._mark, self._samples = None, ()
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
            self._samples = ()  # the lookups left out are no typical part of the traffic
        return self._add(growth)

    def hit_ratios(self) -> dict[str, float]:
        """Hits / lookups of users by window, without windows that have no traffic of theirs."""
        return windows.hit_ratios(self._samples, at=self._at)

    def _may_be_known(self, view: EngineView) -> bool:
        """Whether the counters are those of the one engine that answers."""
        since = self.elsewhere_at
        elsewhere = since is not None and self._at - since < _ELSEWHERE_SECONDS
        relayed = view.snapshot is not None and bool(view.snapshot.parts)
        return not (elsewhere or view.mixed or relayed or self._unknown)

    def _add(self, growth: Growth) -> float | None:
        if growth.queried is not None and growth.hit is not None:
            self.queried_tokens = (self.queried_tokens or 0.0) + growth.queried
            self.hit_tokens = (self.hit_tokens or 0.0) + growth.hit
        sums = EngineTotals(
            queried_tokens=self.queried_tokens or 0.0, hit_tokens=self.hit_tokens or 0.0
        )
        self._samples = windows.observe(self._samples, sums, at=self._at, whole=True)
        if growth.saved is not None:
            self.saved_tokens = (self.saved_tokens or 0.0) + growth.saved
        return growth.saved

    def _lacks_own(self, now: _Mark) -> None:
        """The counters contain less than the exporter asked: they are late, or another engine's."""
        if not self._missed:
            self._missed_at = now.at
        self._missed += 1
        if self._missed >= _MISSED_LOOKS and now.at - self._missed_at >= _MISSED_SECONDS:
            self.elsewhere_at, self._missed = now.at, 0
            self._mark, self._samples, self.known = None, (), False


def _hidden(before: _Mark, now: _Mark, known: bool) -> bool:
    """Whether own requests hit more than their answers report, as when a gateway rewrites answers.

    Only an interval without users shows it.
    """
    own_queried = now.own.queried_tokens - before.own.queried_tokens
    own_hit = now.own.hit_tokens - before.own.hit_tokens
    others = _less(before.totals.queried_tokens, now.totals.queried_tokens, own_queried)
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
    asked = own.requests > earlier.requests
    settled = own.unsettled <= earlier.unsettled and not (hidden and asked)
    queried = _less(before.totals.queried_tokens, now.totals.queried_tokens, own_queried)
    hit = _less(before.totals.hit_tokens, now.totals.hit_tokens, own_hit)
    saved = _less(before.totals.saved_tokens, now.totals.saved_tokens, own_hit)
    recounted = now.recounts != before.recounts
    if not recounted and queried is not None and queried < 0:
        return None
    if not settled or (asked and _external(now.totals)):
        hit = None  # `usage` includes the external cache, the hits do not
    if recounted or queried is None or hit is None or not 0 <= hit <= queried:
        queried = hit = None
    if not settled or (saved is not None and saved < 0):
        saved = None
    return Growth(queried, hit, saved)


def _external(totals: EngineTotals) -> bool:
    saved, hit = totals.saved_tokens, totals.hit_tokens
    return saved is not None and hit is not None and saved > hit * _EXTERNAL_SHARE


def _less(before: float | None, now: float | None, own: int) -> float | None:
    return None if before is None or now is None else now - before - own
