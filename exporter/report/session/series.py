"""A session as the series of its chart; an unknown value is None and drawn as a gap. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.model.session import SessionResult, TurnFacts

_LONGEST = 60
"""The most characters of a string from an engine that a title has room for."""
_LONGEST_DETAIL = 100


@dataclass(frozen=True, slots=True)
class PromptSplit:
    """The tokens of one prompt: served from cache, lost, and new.

    `unknown` are the tokens that cannot be assigned: all if the cached tokens are unknown, the
    computed ones if the ideal is unknown.
    """

    cached: int
    lost: int
    new: int
    unknown: int


@dataclass(frozen=True, slots=True)
class SessionSeries:
    """One value for each turn, in the order of `turns` (their numbers, 1…)."""

    title: str
    subtitle: str
    simulated: bool
    banner: str | None
    failed_turn: int | None
    turns: tuple[int, ...]
    hit: tuple[float | None, ...]
    ideal: tuple[float | None, ...]
    prompts: tuple[PromptSplit | None, ...]
    losses: tuple[str | None, ...]
    ttft: tuple[float | None, ...]
    cold_ttft: tuple[float | None, ...]
    latency: tuple[float, ...]
    served: tuple[int | None, ...]
    served_ideal: tuple[int | None, ...]


def session_series(result: SessionResult, *, interrupted: bool = False) -> SessionSeries:
    """The series of a session, finished or not."""
    turns = result.turns
    return SessionSeries(
        title=_title(result),
        subtitle=f"{shown(result.scenario)} · {numbers.moment(result.started_time)}",
        simulated=result.simulated,
        banner=_banner(result, interrupted=interrupted),
        failed_turn=result.failed_turn if result.failure is not None else None,
        turns=tuple(turn.index for turn in turns),
        hit=tuple(turn.hit_ratio for turn in turns),
        ideal=tuple(turn.ideal_hit_ratio for turn in turns),
        prompts=tuple(prompt_split(turn) for turn in turns),
        losses=tuple(None if t.loss is None else numbers.spaced(t.loss.cause) for t in turns),
        ttft=tuple(turn.ttft_seconds for turn in turns),
        cold_ttft=tuple(turn.cold_ttft_seconds for turn in turns),
        latency=tuple(turn.latency_seconds for turn in turns),
        served=running_sum([turn.cached_tokens for turn in turns]),
        served_ideal=running_sum([turn.ideal_cached_tokens for turn in turns]),
    )


def prompt_split(turn: TurnFacts) -> PromptSplit | None:
    """How a turn's prompt is made up; None if its length is unknown. A first turn loses nothing."""
    prompt, cached = turn.prompt_tokens, turn.cached_tokens
    if prompt is None:
        return None
    if cached is None:
        return PromptSplit(0, 0, 0, prompt)
    computed = max(0, prompt - cached)
    if turn.ideal_cached_tokens is None and turn.index > 1:
        return PromptSplit(cached, 0, 0, computed)
    lost = 0 if turn.loss is None else min(turn.loss.tokens, computed)
    return PromptSplit(cached, lost, computed - lost, 0)


def running_sum(values: list[int | None]) -> tuple[int | None, ...]:
    """The sum up to each value; unknown from the first unknown value on."""
    sums: list[int | None] = []
    total: int | None = 0
    for value in values:
        total = None if total is None or value is None else total + value
        sums.append(total)
    return tuple(sums)


def shown(text: str, longest: int = _LONGEST) -> str:
    """A string from outside, made safe and short enough for one line of a chart."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _title(result: SessionResult) -> str:
    model = "unknown model" if result.model is None else shown(result.model)
    version = result.engine_version
    engine = "unknown version" if version is None else f"vLLM {shown(version)}"
    return f"{'SIMULATED: ' if result.simulated else ''}{model} · {engine}"


def _banner(result: SessionResult, *, interrupted: bool) -> str | None:
    """What is wrong with the session as a whole; None if it finished."""
    if result.failure is not None:
        where = "" if result.failed_turn is None else f" in turn {result.failed_turn}"
        detail = shown(result.failure.detail, _LONGEST_DETAIL)
        return f"FAILED{where}: {numbers.spaced(result.failure.reason)} ({detail})"
    if interrupted:
        return f"Interrupted after turn {result.turns[-1].index if result.turns else 0}"
    return None
