"""The verdict on a session: what the cache saved, what it lost and why, what to change. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from exporter.analysis.paired import LEAST_PAIRS
from exporter.analysis.session_totals import session_totals
from exporter.model.failure import FailureReason
from exporter.model.session import LossCause, Notice
from exporter.wording import numbers
from exporter.wording.notices import (
    ADVICE,
    BREAK_ADVICE,
    LOSS_ADVICE,
    advice_at_terminal,
    break_in_words,
)
from exporter.wording.request_ids import requests_to_look_up
from exporter.wording.reuse_rules import given_up_in_words
from exporter.wording.routing import route_in_words
from exporter.wording.sentences import served_and_lost, turns_in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.analysis.session_totals import SessionTotals
    from exporter.model.session import Loss, SessionResult

UNREACHED = frozenset(
    {
        FailureReason.CONNECTION_REFUSED,
        FailureReason.CONNECT_FAILED,
        FailureReason.CONNECT_TIMEOUT,
    }
)
"""Failures without any answer from the address."""

_TO_FIX = (
    *(Notice.USAGE_MISSING, Notice.USAGE_DETAILS_MISSING, Notice.PREFIX_CACHING_DISABLED),
    *(Notice.USAGE_UNUSABLE, Notice.TRANSFER),
    *(Notice.BLOCK_TOO_LARGE, Notice.SALT_IGNORED, Notice.FIRST_TURN_NOT_COLD),
    Notice.SALT_REFUSED,
    *(Notice.HIT_BEYOND_IDEAL, Notice.MATCH_UNIT_UNKNOWN, Notice.TOKEN_IDS_MISSING),
    *(Notice.OPENING_SHORT, Notice.CACHED_FROM_COUNTERS, Notice.CACHED_TOKENS_UNKNOWN),
)
"""What to fix if nothing was lost; the verdict names the first that applies."""

_TOLD_BY_LOSS = {
    LossCause.DISABLED: Notice.PREFIX_CACHING_DISABLED,
    LossCause.MIXED: Notice.MIXED,
    LossCause.WEDGED: Notice.CACHE_WEDGED,
}
"""Notices that repeat what the line of a loss and the verdict say."""

_NOTHING = "Nothing to change."


def verdict(result: SessionResult, *, interrupted: bool = False) -> str:
    """For a session with at least one turn, finished or not."""
    totals = session_totals(result.turns)
    said = served_and_lost(totals)
    if result.failure is not None:
        return _of_engine(result, f"{failure_in_words(result)} Before that, {_lower(said)}")
    if interrupted:
        said = f"Interrupted after {_turns(totals.turns)}. In these, {_lower(said)}"
    advice = _advice(result, totals)
    if interrupted and advice == _NOTHING:
        advice = None  # the turns that were not played could show something
    rule = given_up_in_words(totals, result.reuse_rule)
    return _of_engine(result, " ".join([said, *([] if advice is None else [advice]), *rule]))


def failure_in_words(result: SessionResult) -> str:
    """Where a session failed, why, and what to do. Empty if it did not fail."""
    failure = result.failure
    if failure is None:
        return ""
    place = (
        "before its first turn" if result.failed_turn is None else f"in turn {result.failed_turn}"
    )
    advice = advice_at_terminal(failure.reason)
    text = (
        f"The session failed {place}: {numbers.spaced(failure.reason)} ({failure.detail}). {advice}"
    )
    if failure.reason in UNREACHED and not result.turns:
        text += (
            " To see a session without an engine, play one against a SIMULATED one:"
            " vllm-cache-exporter probe --simulated."
        )
    return text


def notes(result: SessionResult) -> list[str]:
    """What a reader of the numbers must know besides the verdict."""
    said = verdict(result) if result.turns else ""
    found = []
    prefix = result.prefix
    if prefix is not None and prefix.first_break is not None:
        found.append(break_in_words(prefix.first_break))
        if prefix.stable:
            found.append(BREAK_ADVICE[prefix.first_break.reason])
    pairs = len(session_totals(result.turns).ttft_saved_seconds)
    if 0 < pairs < LEAST_PAIRS:
        found.append(
            f"{pairs} cold control{'' if pairs == 1 else 's'} of turns that hit cannot show how "
            f"much time to first token the cache saves: at least {LEAST_PAIRS} are needed."
        )
    route = route_in_words(result.turns)
    found += [] if route is None else [route]
    lost_by = session_totals(result.turns).lost_by
    told = {notice for cause, notice in _TOLD_BY_LOSS.items() if cause in lost_by}
    notices = sorted(result.notices - {Notice.SIMULATED, Notice.PREFIX_UNSTABLE} - told)
    found += [ADVICE[one] for one in notices if ADVICE[one] not in said]
    return found + requests_to_look_up(result)


def loss_lines(result: SessionResult) -> list[str]:
    """One line for each cause: which turns lost how many tokens, why, and the evidence.

    Turns whose evidence differs only in its numbers share a line with that of the first.
    """
    found: dict[tuple[LossCause, str], list[tuple[int, Loss]]] = {}
    for turn in result.turns:
        if turn.loss is not None:
            alike = re.sub(r"[\d.,]+", "0", turn.loss.evidence)
            found.setdefault((turn.loss.cause, alike), []).append((turn.index, turn.loss))
    return [_loss_line(cause, lost) for (cause, _), lost in found.items()]


def _loss_line(cause: LossCause, lost: Sequence[tuple[int, Loss]]) -> str:
    turns = turns_in_words([turn for turn, _ in lost]).capitalize()
    tokens = numbers.tokens(sum(loss.tokens for _, loss in lost))
    first, evidence = lost[0][0], lost[0][1].evidence
    same = all(loss.evidence == evidence for _, loss in lost)
    where = "" if same else f"in turn {first} "
    return f"{turns} lost {tokens}, {numbers.spaced(cause)}: {where}{evidence}."


def _of_engine(result: SessionResult, said: str) -> str:
    return f"SIMULATED engine: {_lower(said)}" if result.simulated else said


def _advice(result: SessionResult, totals: SessionTotals) -> str | None:
    """What to change about the largest loss or problem; None if that is unknown."""
    hidden = LossCause.UNREPORTED in totals.lost_by
    if totals.lost_by and (hidden or totals.cached_tokens is not None):
        return LOSS_ADVICE[next(iter(totals.lost_by))]
    prefix = result.prefix
    if prefix is not None and not prefix.stable:
        found = prefix.first_break
        return ADVICE[Notice.PREFIX_UNSTABLE] if found is None else BREAK_ADVICE[found.reason]
    for notice in _TO_FIX:
        if notice in result.notices:
            return ADVICE[notice]
    all_served = totals.ideal_tokens and totals.lost_tokens == 0 and not totals.rule_lost_by
    return _NOTHING if all_served else None


def _lower(sentence: str) -> str:
    """A sentence as part of another one. Names in capitals stay in capitals."""
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() else sentence


def _turns(number: int) -> str:
    return f"{number} turn{'' if number == 1 else 's'}"
