"""What the chart of a session shows: its texts, prompt parts and sums; None is unknown. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.wording import numbers
from exporter.wording.sentences import in_failed_turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model.session import SessionResult, TurnFacts

_LONGEST = 60
"""The most characters of a string from an engine that a title has room for."""
_LONGEST_DETAIL = 100


@dataclass(frozen=True, slots=True)
class PromptSplit:
    """The tokens of one prompt: served from cache, lost, given up by the engine's reuse rule, and
    new.

    `unknown` are the tokens that cannot be assigned: all if the cached tokens are unknown, the
    computed ones if the ideal is unknown, those between hit and ideal if the rule is unknown.
    """

    cached: int
    lost: int
    given_up: int
    new: int
    unknown: int


def prompt_split(turn: TurnFacts) -> PromptSplit | None:
    """How a turn's prompt is made up; None if its length is unknown. A first turn loses nothing."""
    prompt, cached, ideal = turn.prompt_tokens, turn.cached_tokens, turn.ideal_cached_tokens
    if prompt is None:
        return None
    if cached is None:
        return PromptSplit(0, 0, 0, 0, prompt)
    computed = max(0, prompt - cached)
    lost = 0 if turn.loss is None else min(turn.loss.tokens, computed)
    if turn.index == 1:
        return PromptSplit(cached, lost, 0, computed - lost, 0)
    if ideal is None:
        return PromptSplit(cached, 0, 0, 0, computed)
    below_ideal = min(max(0, ideal - cached - lost), computed - lost)
    new = computed - lost - below_ideal
    if turn.attainable_cached_tokens is None:
        return PromptSplit(cached, lost, 0, new, below_ideal)
    return PromptSplit(cached, lost, below_ideal, new, 0)


def attainable_differs(turns: Sequence[TurnFacts]) -> bool:
    """Whether the engine's reuse rule gives up tokens of at least one turn."""
    return any(turn.rule_losses for turn in turns)


def running_sum(values: list[int | None]) -> tuple[int | None, ...]:
    """The sum up to each value; unknown from the first unknown value on."""
    sums: list[int | None] = []
    total: int | None = 0
    for value in values:
        total = None if total is None or value is None else total + value
        sums.append(total)
    return tuple(sums)


def one_line(text: str, longest: int = _LONGEST) -> str:
    """A string from outside, made safe and short enough for one line of a chart."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def title(result: SessionResult) -> str:
    """Model and version, from the engine."""
    model = "unknown model" if result.model is None else one_line(result.model)
    version = result.engine_version
    engine = "unknown version" if version is None else f"vLLM {one_line(version)}"
    return f"{'SIMULATED: ' if result.simulated else ''}{model} · {engine}"


def banner(result: SessionResult, *, interrupted: bool) -> str | None:
    """What is wrong with the session as a whole; None if it finished."""
    if result.failure is not None:
        where = in_failed_turn(result)
        detail = one_line(result.failure.detail, _LONGEST_DETAIL)
        return f"FAILED{where}: {numbers.spaced(result.failure.reason)} ({detail})"
    if interrupted:
        return f"Interrupted after turn {result.turns[-1].index if result.turns else 0}"
    return None
