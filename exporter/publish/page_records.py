"""The records that the status page shows: words and numbers ready to print, None never. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "waiting"]


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, how one knows, and what to do; the last two may be empty."""

    title: str
    detail: str
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
    """The last session: a sentence, its turns, and where tokens were lost."""

    scenario: str
    started: Moment
    duration: str
    finished: bool
    verdict: str
    turns: tuple[TurnRow, ...]
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
    earlier: tuple[SessionRow, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything on the page."""

    version: str
    now: Moment
    summary: str
    title: str
    simulated: tuple[str, ...]
    targets: tuple[TargetSection, ...]
