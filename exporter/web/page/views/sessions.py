"""The sessions of a target on the status page. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from exporter.analysis.session_totals import session_totals
from exporter.model.reuse import RuleCause
from exporter.model.session import LossCause
from exporter.web.page.views.charts import SessionPoint, trend_chart, turn_charts
from exporter.web.page.views.records import LossRow, SessionRow, SessionSection
from exporter.wording.notices import LOSS_ADVICE
from exporter.wording.request_ids import requests_to_look_up
from exporter.wording.reuse_rules import amounts_given_up, rule_advice
from exporter.wording.routing import route_in_words
from exporter.wording.sentences import served_and_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.analysis.session_totals import SessionTotals
    from exporter.model.reuse import ReuseRule
    from exporter.model.session import SessionResult, TurnFacts
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
        attainable_differs=any(turn.rule_losses for turn in shown),
        stored=any(turn.external_cached_tokens for turn in shown),
        requests=tuple(requests_to_look_up(result)),
    )


def session_rows(results: Sequence[SessionResult]) -> tuple[SessionRow, ...]:
    return tuple(SessionRow(each, session_totals(each.turns)) for each in results)


def trend(newest_first: Sequence[SessionRow]) -> Chart | None:
    return trend_chart([_point(row) for row in reversed(newest_first)])


def _point(row: SessionRow) -> SessionPoint:
    totals = row.totals
    return SessionPoint(
        totals.hit_ratio,
        _of_prompt(totals.ideal_tokens, totals),
        row.result.failure is not None,
        _of_prompt(totals.attainable_tokens, totals),
    )


def _of_prompt(tokens: int | None, totals: SessionTotals) -> float | None:
    return None if tokens is None or not totals.prompt_tokens else tokens / totals.prompt_tokens


def loss_rows(
    last: Mapping[LossCause, int], totals: Mapping[LossCause, int], attainable: int | None
) -> tuple[LossRow, ...]:
    """The causes of lost tokens, the largest first. `attainable`: tokens that could have been
    served.

    `last` has the lost tokens of the last session.
    """
    return _rows(last, totals, attainable, LOSS_ADVICE.__getitem__)


def rule_rows(
    last: Mapping[RuleCause, int],
    totals: Mapping[RuleCause, int],
    ideal: int | None,
    rule: ReuseRule | None,
) -> tuple[LossRow, ...]:
    """What each part of the engine's reuse rule gives up of the ideal, the largest first."""
    return _rows(last, totals, ideal, lambda cause: rule_advice(cause, rule))


_Cause = TypeVar("_Cause", LossCause, RuleCause)


def _rows(
    last: Mapping[_Cause, int],
    totals: Mapping[_Cause, int],
    whole: int | None,
    advice: Callable[[_Cause], str],
) -> tuple[LossRow, ...]:
    met = sorted((cause for cause, n in totals.items() if n), key=lambda cause: -totals[cause])
    return tuple(
        LossRow(
            cause=cause,
            last=last.get(cause, 0),
            total=totals[cause],
            share=min(1.0, totals[cause] / whole) if whole else None,
            advice=advice(cause),
        )
        for cause in met
    )


def _verdict(result: SessionResult, totals: SessionTotals) -> str:
    if result.failure is None:
        given_up = amounts_given_up(result).values()
        said = [served_and_lost(totals), *(f"{amount}." for amount in given_up)]
        return " ".join([*said, *filter(None, [route_in_words(result.turns)])])
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
