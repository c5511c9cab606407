"""The sessions of a target on the status page. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.session_totals import session_totals
from exporter.web.page.views.charts import SessionPoint, trend_chart, turn_charts
from exporter.web.page.views.records import LossRow, SessionRow, SessionSection
from exporter.wording.notices import LOSS_ADVICE
from exporter.wording.sentences import served_and_lost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.analysis.session_totals import SessionTotals
    from exporter.model.session import LossCause, SessionResult, TurnFacts
    from exporter.web.page.views.charts import Chart

TURNS_ALONE, TURNS_BESIDE_OTHERS = 32, 12
"""At most so many turns of a session are shown, the last ones: for the only target on the page, and
for one of several. A recorded conversation may have thousands."""


def session_section(result: SessionResult, totals: SessionTotals, *, alone: bool) -> SessionSection:
    shown = result.turns[-(TURNS_ALONE if alone else TURNS_BESIDE_OTHERS) :]
    return SessionSection(
        result=result,
        verdict=_verdict(result, totals),
        turns=shown,
        charts=turn_charts(shown),
        first_losses=_first_losses(shown),
    )


def session_rows(results: Sequence[SessionResult]) -> tuple[SessionRow, ...]:
    return tuple(SessionRow(each, session_totals(each.turns)) for each in results)


def trend(newest_first: Sequence[SessionRow]) -> Chart | None:
    return trend_chart([_point(row) for row in reversed(newest_first)])


def _point(row: SessionRow) -> SessionPoint:
    ideal, prompt = row.totals.ideal_tokens, row.totals.prompt_tokens
    return SessionPoint(
        row.totals.hit_ratio,
        None if ideal is None or not prompt else ideal / prompt,
        row.result.failure is not None,
    )


def loss_rows(
    last: Mapping[LossCause, int], totals: Mapping[LossCause, int], ideal: int | None
) -> tuple[LossRow, ...]:
    """The causes of lost tokens, the largest first. `ideal`: tokens that could have been served.

    `last` has the lost tokens of the last session.
    """
    met = sorted((cause for cause, n in totals.items() if n), key=lambda cause: -totals[cause])
    return tuple(
        LossRow(
            cause=cause,
            last=last.get(cause, 0),
            total=totals[cause],
            share=min(1.0, totals[cause] / ideal) if ideal else None,
            advice=LOSS_ADVICE[cause],
        )
        for cause in met
    )


def _verdict(result: SessionResult, totals: SessionTotals) -> str:
    if result.failure is None:
        return served_and_lost(totals)
    return {0: "No turn finished.", 1: "One turn finished."}.get(
        totals.turns, f"{totals.turns} turns finished."
    )


def _first_losses(turns: Sequence[TurnFacts]) -> tuple[TurnFacts, ...]:
    """For each cause of loss its first turn; the verdict names the other turns."""
    first: dict[LossCause, TurnFacts] = {}
    for turn in turns:
        if turn.loss is not None:
            first.setdefault(turn.loss.cause, turn)
    return tuple(first.values())
