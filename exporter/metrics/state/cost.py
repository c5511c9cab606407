"""What the probe costs an engine, what a prompt token costs it, and what the cache saves. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from exporter.analysis.prefill_cost import Point, PrefillCost, points_of, prefill_cost, with_points
from exporter.model.session import ControlOutcome

if TYPE_CHECKING:
    from collections.abc import Collection

    from exporter.analysis.footprint import Footprint
    from exporter.model.engine import EngineView
    from exporter.model.probe import PauseReason, RetentionReading
    from exporter.model.session import SessionResult


@dataclass(frozen=True, slots=True)
class Prices:
    """The configured price of an engine: money per hour, and watts while it computes."""

    price_per_hour: float | None = None
    currency: str | None = None
    watts: float | None = None


PRICES = frozenset(each.name for each in fields(Prices))
"""Settings of a target that no loop reads, so that they can change while it runs."""


@dataclass(slots=True)
class Savings:
    """Prefill seconds saved, and their worth. `seconds` is None until a token's cost is known."""

    seconds: float | None = None
    money: dict[str, float] = field(default_factory=dict)  # by currency
    joules: float = 0.0

    def add(self, seconds: float, prices: Prices) -> None:
        """Add seconds, at the current price and watts."""
        self.seconds = (self.seconds or 0.0) + seconds
        if prices.price_per_hour is not None:
            currency = prices.currency or ""
            money = seconds / 3600 * prices.price_per_hour
            self.money[currency] = self.money.get(currency, 0.0) + money
        if prices.watts is not None:
            self.joules += seconds * prices.watts

    def money_at(self, prices: Prices) -> float | None:
        """In the currency of the current price; None without a price."""
        if self.seconds is None or prices.price_per_hour is None:
            return None
        return self.money.get(prices.currency or "", 0.0)

    def joules_at(self, prices: Prices) -> float | None:
        """None without configured watts."""
        return None if self.seconds is None or prices.watts is None else self.joules


@dataclass(slots=True)
class CostState:
    """One target. `budget_tokens_per_hour` is None without a limit.

    `saved` is of all traffic, with the exporter's own, and `users_saved` is the part of users. They
    sum each growth of the engine's saved tokens times the token's cost at that time. Growth before
    a cost is known does not count. Money and joules use the price and the watts of that time, so a
    new price does not change what was counted.
    """

    budget_tokens_per_hour: int | None = None
    prices: Prices = field(default_factory=Prices)
    controls: dict[ControlOutcome, int] = field(
        default_factory=lambda: dict.fromkeys(ControlOutcome, 0)
    )
    admission_known: bool = False  # whether `paused` was ever set
    paused: PauseReason | None = None
    paused_until: float | None = None  # Unix time
    footprint: Footprint | None = None
    retention: dict[float, float] = field(default_factory=dict)
    prefill: PrefillCost | None = None
    saved: Savings = field(default_factory=Savings)
    users_saved: Savings = field(default_factory=Savings)
    _points: tuple[Point, ...] = ()
    _engine: tuple[str | None, str | None] | None = None
    _restarts: int | None = None
    _tokens_saved: float | None = None

    def admission_checked(self, paused: PauseReason | None, until: float | None = None) -> None:
        self.admission_known, self.paused, self.paused_until = True, paused, until

    def session_finished(self, result: SessionResult) -> None:
        for turn in result.turns:
            if turn.control is not None:
                self.controls[turn.control.outcome] += 1
        new = points_of(result.turns)
        if not new:
            return
        engine = (result.model, result.engine_version)
        if engine != self._engine:
            self._points, self._engine = (), engine
        self._points = with_points(self._points, new)
        self.prefill = prefill_cost(self._points)

    def retention_measured(self, reading: RetentionReading) -> None:
        if reading.ratio is None:
            self.retention.pop(reading.gap_seconds, None)
        else:
            self.retention[reading.gap_seconds] = reading.ratio

    def keep_retention(self, gaps_seconds: Collection[float]) -> None:
        """Drop the values of gaps that are no longer measured."""
        self.retention = {
            gap: share for gap, share in self.retention.items() if gap in gaps_seconds
        }

    def engine_scraped(self, view: EngineView, users_saved: float | None = None) -> None:
        """Add a scrape. `users_saved` are tokens that users saved since the last known number."""
        if self._restarts not in (None, view.restarts):
            # What was measured is not true for another process, which may have other flags.
            self._points, self.prefill = (), None
            self.retention.clear()
        self._restarts = view.restarts
        if self.prefill is not None and users_saved is not None:
            self.users_saved.add(users_saved * self.prefill.seconds_per_token, self.prices)
        before, now = self._tokens_saved, view.totals.saved_tokens
        if now is None:
            return
        self._tokens_saved = now
        if self.prefill is not None:
            growth = 0.0 if before is None else max(0.0, now - before)
            self.saved.add(growth * self.prefill.seconds_per_token, self.prices)
