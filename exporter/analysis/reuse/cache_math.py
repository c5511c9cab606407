"""The arithmetic of prefix caching: what was served from cache, and what could have been.

vLLM hashes full blocks of B tokens, chained from the start of the prompt, and never serves the
last token of a prompt from cache, since its logits are needed (`vllm/v1/core/kv_cache_manager.py`,
`max_cache_hit_length = request.num_tokens - 1`). For a prompt of n tokens, of which C stand at the
start of an earlier sequence of the same salt:

    ideal = floor(min(C, n - 1) / B) * B

An earlier sequence is an earlier prompt with its completion, but without the completion's last
token: vLLM never computes the keys and values of that token. On an undisturbed vLLM 0.32.0,
cached == ideal on every turn at block sizes 32 and 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.analysis.reuse.learning import Learned
from exporter.analysis.reuse.rule import Earlier, Rule, prefix_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.analysis.reuse.rule import Prefix, Span
    from exporter.model.chat import Chat

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EngineCircumstances:
    """Facts about the engine that a turn is judged by; None is unknown.

    `match_unit_tokens` is the label on /metrics. `label_is_wrong`: hits contradict it.
    """

    match_unit_tokens: int | None
    prefix_caching: bool | None
    label_is_wrong: bool = False


def common_prefix(one: Sequence[object], other: Sequence[object]) -> int:
    """The number of leading tokens, or characters, that two sequences share."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # a binary search over slices: slices are compared in C
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True)
class Shared:
    """How many tokens a prompt shares with what was computed before it: from `least` to `most`.

    The two differ where the ids of an answer are unknown.
    """

    least: int
    most: int


def shared_with(prompt: Tokens, earlier: Chat) -> Shared | None:
    """What `prompt` shares with `earlier` and its answer; None without the earlier prompt's ids.

    If the prompt differs from the earlier *prompt*, the answer's ids do not matter. If it goes on
    past the earlier prompt's end, it can share the whole answer but its last token.
    """
    before, answer = earlier.prompt_token_ids, earlier.completion_token_ids
    if before is None:
        return None
    shared = common_prefix(prompt, before)
    if shared < len(before):
        return Shared(shared, shared)
    if answer is not None:
        shared = common_prefix(prompt, before + answer[:-1])
        return Shared(shared, shared)
    longest = len(prompt) if earlier.usage is None else earlier.usage.completion_tokens - 1
    return Shared(shared, min(len(prompt), shared + max(0, longest)))


def _proven_by_hit(turn: Chat, before: Chat, shared: Shared | None) -> Shared | None:
    """What a turn shares with the turn before it, whose answer's ids an API does not send.

    A hit beyond the end of the prompt before can only be of that turn's answer: nothing else
    computed these tokens under its salt.
    """
    hit = turn.usage.local_tokens if turn.usage else None
    if shared is None or hit is None or before.text_pieces is None:
        return shared
    return Shared(min(shared.most, max(shared.least, hit)), shared.most)


@dataclass(frozen=True, slots=True)
class Reusable:
    """What was computed before a prompt under its salt, at least and at most.

    The two differ where the ids of an answer are unknown.
    """

    least: Prefix
    most: Prefix

    @property
    def exact(self) -> Prefix | None:
        """The prefix; None where unknown ids could change it."""
        return self.least if self.least == self.most else None

    def span(self, rules: Learned) -> Span | None:
        """What an engine with these rules serves; None where unknown ids could change it."""
        least, most = rules.span(self.least), rules.span(self.most)
        return least if least == most else None


def reusable(turn: Chat, earlier: Sequence[Chat]) -> Reusable | None:
    """How much of the prompt of `turn` the `earlier` turns of its session computed.

    None where ids are unknown.
    """
    prompt = turn.prompt_token_ids
    if prompt is None:
        return None
    found = [(one, shared_with(prompt, one)) for one in earlier]
    if found:
        before, both = found[-1]
        found[-1] = before, _proven_by_hit(turn, before, both)
    known = [(len(one.prompt_token_ids or ()), both) for one, both in found if both is not None]
    if len(known) < len(found):
        return None
    return Reusable(
        prefix_of(len(prompt), [Earlier(length, both.least) for length, both in known]),
        prefix_of(len(prompt), [Earlier(length, both.most) for length, both in known]),
    )


def ideal_tokens(shared: Reusable | None, match_unit: int | None) -> int | None:
    """The ideal of a turn in tokens; None is unknown.

    The first turn's ideal is always 0: there is nothing before it to reuse. If the ids of an answer
    are unknown, the ideal is known only if they cannot change it: an upper bound is not an ideal.
    """
    if shared is not None and not shared.most.earlier:
        return 0
    span = None if match_unit is None or shared is None else shared.span(Learned(Rule(match_unit)))
    return None if span is None else span.most
