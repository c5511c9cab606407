"""The reuse rule of an engine in words: what it serves, what it gives up, which flag changes that.

Facts about vLLM are from 0.32.0: `config/speculative.py`, `config/cache.py`, `config/scheduler.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.session_totals import session_totals
from exporter.model.reuse import RuleCause
from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.analysis.session_totals import SessionTotals
    from exporter.model.reuse import ReuseRule
    from exporter.model.session import SessionResult

RULE_ADVICE: dict[RuleCause, str] = {
    RuleCause.SPECULATIVE_DECODING: (
        '"disable_eagle_block_drop": true in --speculative-config keeps the last block of a hit. '
        "The engine may then accept fewer draft tokens (experimental, in vLLM 0.31 and 0.32)."
    ),
    RuleCause.ANSWER_NOT_KEPT: (
        "--prefix-cache-retention-interval with a small multiple of the block size keeps blocks of "
        "answers, and each of them takes room in the cache. On a model without linear or Mamba "
        "layers --disable-hybrid-kv-cache-manager keeps all of them, and then every layer needs as "
        "much cache as one with full attention."
    ),
    RuleCause.UNIT: (
        "--prefix-match-unit with a smaller number that divides the block size of every layer lets "
        "hits end at more places. Each lookup then hashes more. Where it is set, vLLM may ignore "
        "it."
    ),
    RuleCause.STORE_CHUNK: (
        "The store serves whole chunks of the prompts that it has. Smaller chunks (chunk_size of "
        "LMCache) serve more, and each lookup then hashes more. Where the engine's own cache kept "
        "the turn, nothing is given up."
    ),
}
"""The flag that changes it, and what that costs."""

NO_FLAG = "No flag changes this while the engine decodes speculatively."
"""In place of the flag where speculation needs the last tokens and drops no block (vLLM 0.33)."""

PART_OPEN = (
    "Which part of the rule does this, and which flag changes it, is not known yet. More hits show "
    "it."
)
"""In place of the flag while the hits leave that part of the rule open."""

GIVEN_UP = "given up by the engine's rule"
"""The name of these tokens in tables and charts."""

_GIVES_UP = {
    RuleCause.SPECULATIVE_DECODING: "EAGLE or MTP gives up",
    RuleCause.ANSWER_NOT_KEPT: "Not keeping answers (sliding-window or linear layers) gives up",
    RuleCause.UNIT: "A match unit larger than the cache block gives up",
    RuleCause.STORE_CHUNK: "An external KV store, which serves whole chunks of prompts, gives up",
}
_LOOKAHEAD = "Speculative decoding gives up"
_OPEN = "The engine's reuse rule gives up"


def rule_in_words(rule: ReuseRule) -> str:
    """What an engine with this rule serves of a known prefix."""
    unit = rule.unit_tokens
    parts = [
        "the unit that hits are multiples of is not known yet"
        if unit is None
        else f"hits are multiples of {numbers.tokens(unit)}"
    ]
    if rule.dropped_blocks:
        last = "unit" if unit is None else numbers.tokens(rule.dropped_blocks * unit)
        are = "is" if unit is None else "are"
        parts.append(f"the last {last} of each hit {are} dropped, as with EAGLE or MTP")
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


def given_up_in_words(totals: SessionTotals, rule: ReuseRule | None) -> list[str]:
    """A sentence for each part of the rule: what it gives up, and the flag that changes it. The
    largest comes first.
    """
    return [
        f"{amount}. {rule_advice(cause, rule)}" for cause, amount in _amounts(totals, rule).items()
    ]


def amounts_given_up(session: SessionResult) -> dict[RuleCause, str]:
    """How much each part of the rule gives up, the largest first."""
    return _amounts(session_totals(session.turns), session.reuse_rule)


def _amounts(totals: SessionTotals, rule: ReuseRule | None) -> dict[RuleCause, str]:
    return {
        cause: f"{_what(cause, rule)} {_a_turn(tokens, totals)}{_share(tokens, totals)}"
        for cause, tokens in totals.rule_lost_by.items()
    }


def rule_advice(cause: RuleCause, rule: ReuseRule | None) -> str:
    """The flag that changes this part of the rule, and what that costs, if the part is known."""
    if _is_open(cause, rule):
        return PART_OPEN
    return NO_FLAG if _only_looks_ahead(cause, rule) else RULE_ADVICE[cause]


def _what(cause: RuleCause, rule: ReuseRule | None) -> str:
    if _is_open(cause, rule):
        return _OPEN
    return _LOOKAHEAD if _only_looks_ahead(cause, rule) else _GIVES_UP[cause]


def _is_open(cause: RuleCause, rule: ReuseRule | None) -> bool:
    """Whether the hits leave open what the rule's part of this cause is."""
    if cause is RuleCause.STORE_CHUNK:
        return False
    if rule is None:
        return True
    parts = {
        RuleCause.SPECULATIVE_DECODING: rule.dropped_blocks,
        RuleCause.ANSWER_NOT_KEPT: rule.answers_kept,
        RuleCause.UNIT: rule.unit_tokens,
    }
    return parts[cause] is None


def _only_looks_ahead(cause: RuleCause, rule: ReuseRule | None) -> bool:
    dropped = None if rule is None else rule.dropped_blocks
    return cause is RuleCause.SPECULATIVE_DECODING and dropped == 0


def _a_turn(tokens: int, totals: SessionTotals) -> str:
    if totals.attainable_tokens is None:  # what the rule gives up of some turns is unknown
        return f"at least {numbers.tokens(tokens)} of this session"
    later = totals.turns - 1
    about = "" if tokens % later == 0 else "about "
    return f"{about}{numbers.tokens(max(1, round(tokens / later)))} a turn"


def _share(tokens: int, totals: SessionTotals) -> str:
    if not totals.prompt_tokens:
        return ""
    return f", {numbers.percent(tokens / totals.prompt_tokens)} of this session's prompt tokens"
