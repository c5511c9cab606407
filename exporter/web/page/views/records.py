"""The records of the status page: facts, which the template formats. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.analysis.session_totals import SessionTotals
    from exporter.metrics.state.condition import Look
    from exporter.metrics.state.target import TargetState
    from exporter.model.engine import EngineView
    from exporter.model.reuse import RuleCause
    from exporter.model.session import LossCause, SessionResult, TurnFacts
    from exporter.web.page.views.charts import Chart


@dataclass(frozen=True, slots=True)
class PageLinks:
    """`grafana_url` is None without Grafana. `pictures`: whether /report.png can draw."""

    grafana_url: str | None = None
    pictures: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, the evidence, and what to do; the last two may be empty.

    `runbook` is the name of its page at /runbooks; empty where there is none.
    """

    title: str
    detail: str
    advice: str
    runbook: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    text: str
    url: str


@dataclass(frozen=True, slots=True)
class LossRow:
    """Tokens lost by one cause, or given up by one part of the reuse rule: in the last session, and
    since the exporter started.

    `share` is the total as a ratio of the attainable tokens; for a part of the rule, of the ideal.
    """

    cause: LossCause | RuleCause
    last: int
    total: int
    share: float | None
    advice: str


@dataclass(frozen=True, slots=True)
class SessionSection:
    """The last session: `turns` are those shown, `first_losses` the first turn of each cause.

    `attainable_differs`: the engine's reuse rule gives up tokens of one of these turns. `stored`: a
    KV store served tokens of one of them. `requests` are sentences about requests that were slow or
    failed, with their ids.
    """

    result: SessionResult
    verdict: str
    turns: tuple[TurnFacts, ...]
    charts: tuple[Chart, ...]
    first_losses: tuple[TurnFacts, ...]
    attainable_differs: bool
    stored: bool
    requests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One line of the table of earlier sessions."""

    result: SessionResult
    totals: SessionTotals


@dataclass(frozen=True, slots=True)
class TargetSection:
    """One target in full. `engine` is its last view, unless that failed. `reuse_rule` is that of
    its process in words, None while it is unknown. `with_store` are the hit ratios over all tiers;
    it is empty where no external tier served anything.
    """

    state: TargetState
    look: Look
    problems: tuple[Problem, ...]
    notices: tuple[str, ...]
    engine: EngineView | None
    with_store: Mapping[str, float]
    probe_waits: str | None
    footprint: str | None
    heartbeat: str | None
    time_saved: str | None
    session: SessionSection | None
    losses: tuple[LossRow, ...]
    rule_losses: tuple[LossRow, ...]
    reuse_rule: str | None
    trend: Chart | None
    earlier: tuple[SessionRow, ...]
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """One target in a line. `anchor` links to its section, on this page or on a page of its own."""

    state: TargetState
    look: Look
    anchor: str
    totals: SessionTotals
    warm_ttft_seconds: float | None
    ended_time: float | None


@dataclass(frozen=True, slots=True)
class Page:
    """Everything on the page at Unix time `now`.

    `caption` belongs to the overview. `without_section` counts its targets that have no section.
    """

    now: float
    summary: str
    simulated: tuple[str, ...]
    links: tuple[Link, ...]
    caption: str
    other_pages: tuple[Link, ...]
    overview: tuple[OverviewRow, ...]
    without_section: int
    targets: tuple[TargetSection, ...]
