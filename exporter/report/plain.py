"""A session as lines of plain text, one as each turn ends. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.notices import ADVICE

if TYPE_CHECKING:
    from exporter.model import SessionResult, TurnFacts

HEADER = (
    f"{'turn':>4} {'prompt':>7} {'cached':>7} {'ideal':>7} {'hit':>6} {'of ideal':>8} "
    f"{'TTFT':>9} {'latency':>9}"
)
UNKNOWN = "-"


def turn_line(turn: TurnFacts) -> str:
    """One row under `HEADER`; what is not known is a dash."""
    line = (
        f"{turn.index:>4} {_count(turn.prompt_tokens):>7} {_count(turn.cached_tokens):>7} "
        f"{_count(turn.ideal_cached_tokens):>7} {_percent(turn.hit_ratio):>6} "
        f"{_percent(turn.efficiency_ratio):>8} {_milliseconds(turn.ttft_seconds):>9} "
        f"{_milliseconds(turn.latency_seconds):>9}"
    )
    return line if turn.loss is None else f"{line}  lost {turn.loss.tokens}: {turn.loss.cause}"


def closing_lines(result: SessionResult) -> list[str]:
    """What to know at the end: the totals, the notices with what to do, the failure."""
    lines = [total_line(result)] if result.turns else []
    lines += [f"note: {ADVICE[notice]}" for notice in sorted(result.notices)]
    if result.failure is not None:
        where = "" if result.failed_turn is None else f" at turn {result.failed_turn}"
        lines.append(f"FAILED{where}: {result.failure.reason}: {result.failure.detail}")
    return lines


def total_line(result: SessionResult) -> str:
    """Tokens saved over the turns whose cached tokens are known."""
    known = [turn for turn in result.turns if turn.cached_tokens is not None]
    if not known:
        return f"{len(result.turns)} turns; cached tokens unknown"
    prompt = sum(turn.prompt_tokens or 0 for turn in known)
    saved = sum(turn.cached_tokens or 0 for turn in known)
    share = f" ({saved / prompt:.1%})" if prompt else ""
    lost = sum(turn.loss.tokens for turn in known if turn.loss is not None)
    return (
        f"{len(result.turns)} turns: {saved} of {prompt} prompt tokens came from the cache{share}, "
        f"{lost} more could have"
    )


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"


def _milliseconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value * 1000:.1f} ms"
