"""The records that the status page shows: words and numbers ready to print, None never. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.metrics.state.condition import Tone
    from exporter.web.page.views.charts import Chart


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, how one knows, and what to do; the last two may be empty.

    `runbook` is the name of its page at /runbooks, empty where there is none.
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
    """What one cause took: in the last session, and since the exporter began."""

    cause: str
    last: str
    share: str
    total: str
    advice: str


@dataclass(frozen=True, slots=True)
class Moment:
    """A time for people, and the same for machines."""

    text: str
    machine: str
    ago: str


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One line of the table of turns; the bars are in per cent of the prompt."""

    turn: int
    prompt: str
    completion: str
    cached: str
    ideal: str
    hit_ratio: str
    efficiency: str
    ttft: str
    latency: str
    hit_bar: float | None
    ideal_bar: float | None


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One line of the table of earlier sessions."""

    started: Moment
    outcome: str
    finished: bool
    turns: int
    hit_ratio: str
    efficiency: str
    duration: str


@dataclass(frozen=True, slots=True)
class SessionSection:
    """The last session: a sentence, its turns, and how one knows what took the lost tokens.

    `left_out` counts the turns before those shown.
    """

    scenario: str
    started: Moment
    duration: str
    finished: bool
    verdict: str
    turns: tuple[TurnRow, ...]
    left_out: int
    charts: tuple[Chart, ...]
    losses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TargetSection:
    name: str
    status: str
    tone: Tone
    simulated: bool
    problems: tuple[Problem, ...]
    notices: tuple[str, ...]
    facts: tuple[Fact, ...]
    container: tuple[Fact, ...]
    session: SessionSection | None
    losses: tuple[LossRow, ...]
    trend: Chart | None
    earlier: tuple[SessionRow, ...]
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """One target in a line; `anchor` is where more of it stands, on this page or on its own."""

    name: str
    anchor: str
    status: str
    tone: Tone
    simulated: bool
    hit_ratio: str
    efficiency: str
    ttft: str
    container: str
    ended: str


@dataclass(frozen=True, slots=True)
class Page:
    """Everything on the page. `folded` counts the targets that stand in the overview alone.

    `part` says which of the targets these are, and `parts` lead to the others.
    """

    version: str
    now: Moment
    summary: str
    title: str
    simulated: tuple[str, ...]
    links: tuple[Link, ...]
    part: str
    parts: tuple[Link, ...]
    overview: tuple[OverviewRow, ...]
    folded: int
    targets: tuple[TargetSection, ...]
