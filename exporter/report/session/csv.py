"""Sessions as CSV: one line for each turn, columns named like the JSON keys. Pure."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from exporter.analysis.session_totals import session_totals
from exporter.model.reuse import RuleCause
from exporter.wording.session_json import session_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from exporter.model.session import SessionResult

_SESSION = ("target", "scenario", "simulated", "started", "model", "engine_version")
_TURN = (
    *("turn", "prompt_tokens", "completion_tokens", "cached_tokens", "ideal_cached_tokens"),
    *("hit_ratio", "efficiency_ratio", "tokens_saved", "ttft_seconds", "latency_seconds"),
    *("cold_ttft_seconds", "ttft_saved_seconds"),
)
_LOSS = ("tokens", "cause", "evidence")
_LATER = ("cached_tokens_source", "attainable_cached_tokens")
_RULE_LOSSES = tuple(f"rule_lost_{cause}_tokens" for cause in RuleCause)
_LAST = ("replica", "external_cached_tokens", "request_id")
_SESSION_LAST = ("data_parallel_rank", "api")
COLUMNS = (
    *(*_SESSION, *_TURN, *(f"loss_{name}" for name in _LOSS), *_LATER),
    *(*_RULE_LOSSES, *_LAST, *_SESSION_LAST),
)
"""Columns may be added at the end; none is ever renamed or removed."""


def session_csv(*results: SessionResult, header: bool = True, totals: bool = False) -> str:
    """A header and one line per finished turn. Unknown is empty; true and false as in JSON.

    With `totals` each session ends with a line of its sums, whose `turn` is `all`.
    """
    page = io.StringIO()
    table = csv.writer(page, lineterminator="\n")
    if header:
        table.writerow(COLUMNS)
    for result in results:
        table.writerows(_rows(session_json(result)))
        if totals and result.turns:
            table.writerow(_sums(result))
    return page.getvalue()


def _rows(session: Mapping[str, Any]) -> Iterator[list[object]]:
    head = _cells(session, _SESSION)
    for turn in session["turns"]:
        loss: Mapping[str, object] = turn["loss"] or {}
        cells = [*_cells(turn, _TURN), *_cells(loss, _LOSS), *_cells(turn, _LATER)]
        last = [*_cells(turn, _LAST), *_cells(session, _SESSION_LAST)]
        yield [*head, *cells, *_rule_losses(turn), *last]


def _sums(result: SessionResult) -> list[object]:
    """The line of the sums. Columns that have no sum are empty."""
    totals = session_totals(result.turns)
    known = {name: value for name, value in session_json(result).items() if name in _SESSION}
    known |= {
        "turn": "all",
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.completion_tokens,
        "cached_tokens": totals.cached_tokens,
        "ideal_cached_tokens": totals.ideal_tokens,
        "hit_ratio": totals.hit_ratio,
        "efficiency_ratio": totals.efficiency_ratio,
        "tokens_saved": totals.cached_tokens,
        "loss_tokens": totals.lost_tokens,
        "attainable_cached_tokens": totals.attainable_tokens,
        "external_cached_tokens": totals.external_tokens,
        "data_parallel_rank": result.data_parallel_rank,
        "api": result.api,
    }
    return _cells(known, COLUMNS)


def _rule_losses(turn: Mapping[str, Any]) -> list[object]:
    """The tokens of each cause; 0 if the rule gives up none, empty while the rule is unknown."""
    given_up = {part["cause"]: part["tokens"] for part in turn["rule_losses"]}
    none = "" if turn["attainable_cached_tokens"] is None else 0
    return [given_up.get(cause, none) for cause in RuleCause]


def _cells(shape: Mapping[str, object], names: Sequence[str]) -> list[object]:
    return [_cell(shape.get(name)) for name in names]


def _cell(value: object) -> object:
    if value is None:
        return ""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value
