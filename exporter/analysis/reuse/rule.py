"""What an engine serves of a prompt by its reuse rule.

Up to vLLM 0.32 `find_longest_cache_hit` (`v1/core/single_type_kv_cache_manager.py`) drops the last
matched block for EAGLE and MTP. Groups with sliding windows or linear layers keep only the blocks
that end at a *replay boundary*: the last whole unit of a prompt without its last token
(`replay_boundaries` in `v1/core/kv_cache_coordinator.py`). A prompt that ends at another place of
the earlier one can still hit where a window reaches back to its start, so such a hit has two
bounds. Units are the alignment of all groups. From 0.33 speculative decoding needs the tokens
after a hit in place of the block, and a synchronous scheduler does not keep the tokens of an
answer's last step: both are `lookahead_tokens`, which has two bounds as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.model.reuse import RuleCause, RuleLoss

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the family; `model.reuse.ReuseRule` describes the parts."""

    unit_tokens: int
    dropped_blocks: int = 0
    answers_kept: bool = True
    lookahead_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier request under the same salt: the tokens of its prompt, and how many tokens a later
    prompt shares with that prompt and its answer, without the answer's last token.
    """

    prompt: int
    shared: int


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt's length and what was computed before it under the same salt, in tokens."""

    prompt: int
    earlier: tuple[Earlier, ...]

    @property
    def known(self) -> int:
        """The first tokens of the prompt that were computed before, without its last token."""
        return max(0, min(self.prompt - 1, max((one.shared for one in self.earlier), default=0)))


def sent_again(prompt: int) -> Prefix:
    """The prefix of a prompt of that length that was sent before."""
    return Prefix(prompt, (Earlier(prompt, prompt),))


def prefix_of(prompt: int, earlier: Sequence[Earlier]) -> Prefix:
    """The prefix, without earlier requests that a later one is as good as under every rule."""
    kept: list[Earlier] = []
    for place, one in enumerate(earlier):
        better = (
            other.prompt >= one.prompt and other.shared >= max(one.shared, other.prompt)
            for other in earlier[place + 1 :]
        )
        if not any(better):
            kept.append(one)
    return Prefix(prompt, tuple(kept))


@dataclass(frozen=True, slots=True)
class Span:
    """Between how many tokens a rule serves."""

    least: int
    most: int

    def nearest(self, tokens: int) -> int:
        """The number within the span that is nearest to `tokens`."""
        return min(max(tokens, self.least), self.most)


def served(rule: Rule, prefix: Prefix) -> Span:
    """The tokens that an undisturbed engine with this rule serves of the prompt."""
    last = max(0, prefix.prompt - 1)  # the last token's logits are needed, so it is computed
    # Beside sliding or linear groups vLLM matches the unit that it drops up to the prompt's end.
    longest = prefix.prompt if rule.dropped_blocks and not rule.answers_kept else last
    most = max((_reach(rule, one, min(one.shared, longest)) for one in prefix.earlier), default=0)
    least = max(
        (
            _boundary(rule, one, min(max(0, one.shared - rule.lookahead_tokens), last))
            for one in prefix.earlier
        ),
        default=0,
    )
    return Span(min(least, most), most)


def _reach(rule: Rule, earlier: Earlier, tokens: int) -> int:
    """The most that `earlier` can serve of the first `tokens` tokens."""
    found = _boundary(rule, earlier, tokens)
    if found == 0 and not rule.answers_kept and tokens < earlier.prompt - 1:
        return _units(rule, tokens)  # a window can reach back to the start
    return found


def _boundary(rule: Rule, earlier: Earlier, tokens: int) -> int:
    """What `earlier` serves for sure of the first `tokens` tokens."""
    if rule.answers_kept:
        return _units(rule, tokens)
    unit, ends = rule.unit_tokens, [max(0, earlier.prompt - 1)]
    if rule.dropped_blocks:
        ends.append(earlier.prompt)
    kept = [end // unit * unit for end in ends]
    return max((_units(rule, end) for end in kept if end <= tokens), default=0)


def _units(rule: Rule, tokens: int) -> int:
    return max(0, tokens // rule.unit_tokens - rule.dropped_blocks) * rule.unit_tokens


def span_of(rules: Iterable[Rule], prefix: Prefix) -> Span:
    """Between how many tokens an engine with one of these rules serves. `rules` is not empty."""
    spans = [served(rule, prefix) for rule in rules]
    return Span(min(span.least for span in spans), max(span.most for span in spans))


def given_up(
    rule: Rule, ideal: int, attainable: int, block: int, prefix: Prefix
) -> tuple[RuleLoss, ...]:
    """What the rule gives up of the ideal, by cause. `block` is the unit of the ideal.

    The parts add up to `ideal - attainable`. Each is what one more part of the rule takes from what
    the parts before it left: first answers that are not kept, then the unit, then speculation.
    """
    steps = {
        RuleCause.ANSWER_NOT_KEPT: Rule(block, answers_kept=rule.answers_kept),
        RuleCause.UNIT: Rule(rule.unit_tokens, answers_kept=rule.answers_kept),
    }
    left, parts = ideal, []
    for cause, step in steps.items():
        after = min(left, max(attainable, served(step, prefix).most))
        parts.append(RuleLoss(left - after, cause))
        left = after
    speculative = rule.dropped_blocks > 0 or rule.lookahead_tokens > 0
    rest = RuleCause.SPECULATIVE_DECODING if speculative else RuleCause.ANSWER_NOT_KEPT
    parts.append(RuleLoss(left - attainable, rest))
    return _by_cause(parts)


def stored(chunk: int, prefix: Prefix) -> int:
    """What a store that keeps the earlier prompts in whole chunks, and no answers, serves."""
    last = max(0, prefix.prompt - 1)
    return max(
        (min(one.shared, one.prompt, last) // chunk * chunk for one in prefix.earlier), default=0
    )


def with_store_chunk(parts: tuple[RuleLoss, ...], tokens: int) -> tuple[RuleLoss, ...]:
    """The parts, and the tokens behind the last whole chunk of a store that served the turn."""
    return _by_cause([*parts, RuleLoss(tokens, RuleCause.STORE_CHUNK)])


def _by_cause(parts: Sequence[RuleLoss]) -> tuple[RuleLoss, ...]:
    totals = {cause: sum(p.tokens for p in parts if p.cause is cause) for cause in RuleCause}
    return tuple(RuleLoss(tokens, cause) for cause, tokens in totals.items() if tokens > 0)
