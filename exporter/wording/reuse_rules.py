"""The reuse rule of an engine in words: what it serves, what it gives up, which flag changes that.

Facts about vLLM are from 0.32.0: `config/speculative.py`, `config/cache.py`, `config/scheduler.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.model.reuse import RuleCause
from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.analysis.session_totals import SessionTotals
    from exporter.model.reuse import ReuseRule

RULE_ADVICE = {
    RuleCause.SPECULATIVE_DECODING: (
        '"disable_eagle_block_drop": true in --speculative-config keeps the last block of each '
        "hit; the draft model then accepts fewer tokens at first."
    ),
    RuleCause.ANSWER_NOT_KEPT: (
        "--prefix-cache-retention-interval with a small multiple of the unit, or "
        "--disable-hybrid-kv-cache-manager, keeps answers; both take more room in the cache."
    ),
    RuleCause.UNIT: (
        "--prefix-match-unit with a smaller number makes the unit smaller, where the block sizes "
        "of all layers are multiples of it; lookups then hash more often."
    ),
}
"""The flag that changes it, and what that costs."""

_GIVES_UP = {
    RuleCause.SPECULATIVE_DECODING: "Speculative decoding",
    RuleCause.ANSWER_NOT_KEPT: "An engine that does not keep the blocks of answers",
    RuleCause.UNIT: "A match unit larger than the block",
}


def rule_in_words(rule: ReuseRule) -> str:
    """What an engine with this rule serves of a known prefix."""
    unit = numbers.tokens(rule.unit_tokens)
    parts = [f"hits are multiples of {unit}"]
    if rule.dropped_blocks:
        parts.append(
            f"the last {numbers.tokens(rule.dropped_blocks * rule.unit_tokens)} of each hit are "
            "dropped, as with EAGLE or MTP"
        )
    if rule.dropped_blocks is None:
        parts.append("whether the last unit of each hit is dropped is not known yet")
    if rule.answers_kept is False:
        parts.append("the blocks of answers are not kept, as with sliding windows or linear layers")
    if rule.answers_kept is None:
        parts.append("whether the blocks of answers are kept is not known yet")
    if rule.lookahead_tokens:
        parts.append(
            f"up to {numbers.tokens(rule.lookahead_tokens)} at the end of a prefix may not count, "
            "because of speculative decoding"
        )
    return "; ".join(parts)


def given_up_in_words(totals: SessionTotals) -> list[str]:
    """A sentence for each part of the rule: what it gives up, and the flag that changes it."""
    turns = totals.turns - 1
    return [
        f"{_GIVES_UP[cause]} gives up {numbers.tokens(round(tokens / turns))} a turn"
        f"{_share(tokens, totals.prompt_tokens)}. {RULE_ADVICE[cause]}"
        for cause, tokens in totals.rule_lost_by.items()
    ]


def _share(tokens: int, prompt_tokens: int | None) -> str:
    share = None if not prompt_tokens else tokens / prompt_tokens
    return "" if share is None else f", {numbers.percent(share)} of this session's prompt tokens"
