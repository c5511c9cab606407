"""What the status page says of sessions. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.session_totals import session_totals
from exporter.web.page.views.charts import SessionPoint, trend_chart, turn_charts
from exporter.web.page.views.records import LossRow, Moment, SessionRow, SessionSection, TurnRow
from exporter.wording import numbers
from exporter.wording.notices import LOSS_ADVICE
from exporter.wording.sentences import served_and_lost
from exporter.wording.session_json import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.model.session import Loss, LossCause, SessionResult, TurnFacts
    from exporter.web.page.views.charts import Chart

TURNS_ALONE, TURNS_BESIDE_OTHERS = 32, 12
"""A recorded conversation may have thousands of turns; of a longer one the last so many are shown:
of a target that has the page for itself, and of one among several."""


def moment(unix_time: float, now: float) -> Moment:
    return Moment(numbers.moment(unix_time), rfc3339(unix_time), numbers.ago(unix_time, now))


def session_section(result: SessionResult, now: float, *, alone: bool) -> SessionSection:
    shown = result.turns[-(TURNS_ALONE if alone else TURNS_BESIDE_OTHERS) :]
    return SessionSection(
        scenario=result.scenario,
        started=moment(result.started_time, now),
        duration=numbers.seconds(result.duration_seconds),
        finished=result.failure is None,
        verdict=verdict(result),
        turns=tuple(_turn_row(turn) for turn in shown),
        left_out=len(result.turns) - len(shown),
        charts=turn_charts(shown),
        losses=_first_losses(shown),
    )


def session_row(result: SessionResult, now: float) -> SessionRow:
    hit_ratio, efficiency = ratios(result)
    return SessionRow(
        started=moment(result.started_time, now),
        outcome="finished"
        if result.failure is None
        else f"failed: {numbers.spaced(result.failure.reason)}",
        finished=result.failure is None,
        turns=len(result.turns),
        hit_ratio=hit_ratio,
        efficiency=efficiency,
        duration=numbers.seconds(result.duration_seconds),
    )


def trend(newest_first: Sequence[SessionResult]) -> Chart | None:
    return trend_chart([_point(result) for result in reversed(newest_first)])


def _point(result: SessionResult) -> SessionPoint:
    totals = session_totals(result.turns)
    best, prompt = totals.ideal_tokens, totals.prompt_tokens
    return SessionPoint(
        totals.hit_ratio,
        None if best is None or not prompt else best / prompt,
        result.failure is not None,
    )


def loss_rows(
    last: SessionResult | None, totals: Mapping[LossCause, int], ideal: int | None
) -> tuple[LossRow, ...]:
    """Causes that were met, the largest of all first. `ideal`: what could have been served."""
    recent: Mapping[LossCause, int] = {} if last is None else session_totals(last.turns).lost_by
    met = sorted((cause for cause, n in totals.items() if n), key=lambda cause: -totals[cause])
    return tuple(
        LossRow(
            cause=numbers.spaced(cause),
            last=numbers.count(recent.get(cause, 0)),
            share=numbers.percent(min(1.0, totals[cause] / ideal) if ideal else None),
            total=numbers.count(totals[cause]),
            advice=LOSS_ADVICE[cause],
        )
        for cause in met
    )


def verdict(result: SessionResult) -> str:
    if result.failure is not None:
        finished = len(result.turns)
        return {0: "No turn finished.", 1: "One turn finished."}.get(
            finished, f"{finished} turns finished."
        )
    return f"{served_and_lost(session_totals(result.turns))}."


def ratios(result: SessionResult) -> tuple[str, str]:
    """Hit ratio and efficiency of a session in words."""
    totals = session_totals(result.turns)
    return numbers.percent(totals.hit_ratio), numbers.percent(totals.efficiency_ratio)


def _first_losses(turns: Sequence[TurnFacts]) -> tuple[str, ...]:
    """The first loss of each cause, with its evidence; the verdict names the other turns."""
    first: dict[LossCause, str] = {}
    for turn in turns:
        if turn.loss is not None:
            first.setdefault(turn.loss.cause, _loss(turn.index, turn.loss))
    return tuple(first.values())


def _loss(turn: int, loss: Loss) -> str:
    lost = f"{numbers.tokens(loss.tokens)} lost, {numbers.spaced(loss.cause)}"
    return f"Turn {turn}: {lost} ({loss.evidence})"


def _turn_row(turn: TurnFacts) -> TurnRow:
    return TurnRow(
        turn=turn.index,
        prompt=numbers.count(turn.prompt_tokens),
        completion=numbers.count(turn.completion_tokens),
        cached=numbers.count(turn.cached_tokens),
        ideal=numbers.count(turn.ideal_cached_tokens),
        hit_ratio=numbers.percent(turn.hit_ratio),
        efficiency=numbers.percent(turn.efficiency_ratio),
        ttft=numbers.seconds(turn.ttft_seconds),
        latency=numbers.seconds(turn.latency_seconds),
        hit_bar=_bar(turn.hit_ratio),
        ideal_bar=_bar(turn.ideal_hit_ratio),
    )


def _bar(ratio: float | None) -> float | None:
    return None if ratio is None else round(100 * min(max(ratio, 0.0), 1.0), 1)
