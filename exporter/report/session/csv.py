"""A session as CSV: one line for each turn, columns named like the JSON keys. Pure."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from exporter.model.reuse import RuleCause
from exporter.wording.session_json import session_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
COLUMNS = (
    *(*_SESSION, *_TURN, *(f"loss_{name}" for name in _LOSS), *_LATER),
    *(*_RULE_LOSSES, *_LAST, "data_parallel_rank"),
)
"""Columns may be added at the end; none is ever renamed or removed."""


def session_csv(result: SessionResult) -> str:
    """A header and one line per finished turn. Unknown is empty; true and false as in JSON."""
    session = session_json(result)
    head = _cells(session, _SESSION)
    page = io.StringIO()
    table = csv.writer(page, lineterminator="\n")
    table.writerow(COLUMNS)
    for turn in session["turns"]:
        loss: Mapping[str, object] = turn["loss"] or {}
        cells = [*_cells(turn, _TURN), *_cells(loss, _LOSS), *_cells(turn, _LATER)]
        last = [*_cells(turn, _LAST), *_cells(session, ("data_parallel_rank",))]
        table.writerow([*head, *cells, *_rule_losses(turn), *last])
    return page.getvalue()


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
