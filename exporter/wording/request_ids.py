"""The request ids of turns that were slow or failed, in sentences. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.session_totals import median_ttft, slow_turns
from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.model.session import SessionResult, TurnFacts

_IN_LOG = "vLLM's log has it as chatcmpl-{} if it runs with --enable-log-requests"


def requests_to_look_up(result: SessionResult) -> list[str]:
    """A sentence for each request whose id is known and that was slow or failed."""
    usual = median_ttft(result.turns)
    found = [_slow(turn, usual) for turn in slow_turns(result.turns) if turn.request_id is not None]
    if result.failure is not None and result.failed_request_id is not None:
        failed = f"The request of turn {result.failed_turn} failed"
        found.append(f"{failed}. Its id is {_named(result.failed_request_id)}.")
    return found


def _slow(turn: TurnFacts, usual: float | None) -> str:
    return (
        f"Turn {turn.index} was slow: {numbers.seconds(turn.ttft_seconds)} to the first token, "
        f"where the median of the later turns is {numbers.seconds(usual)}. Its request id is "
        f"{_named(turn.request_id)}."
    )


def _named(request_id: str | None) -> str:
    return f"{request_id}: {_IN_LOG.format(request_id)}"
