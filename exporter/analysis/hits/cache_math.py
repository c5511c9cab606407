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

from exporter.model.session import LossCause, TurnFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model.chat import CachedTokensSource, Chat, Usage
    from exporter.model.session import Loss

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EngineCircumstances:
    """Facts about the engine that a turn is judged by; None is unknown.

    `match_unit_tokens` is the label on /metrics. `label_is_wrong`: hits contradict it.
    """

    match_unit_tokens: int | None
    prefix_caching: bool | None
    label_is_wrong: bool = False


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of leading tokens that two sequences share."""
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

    def servable(self, match_unit: int) -> int | None:
        """The tokens of its whole units; None where the unknown ids could change their number."""
        least, most = (tokens // match_unit * match_unit for tokens in (self.least, self.most))
        return least if least == most else None


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


def turn_ideal(turn: Chat, earlier: Sequence[Chat], match_unit: int | None) -> int | None:
    """The ideal of `turn` after the `earlier` turns of its session, in tokens; None is unknown.

    The first turn's ideal is always 0: there is nothing before it to reuse. If the ids of an answer
    are unknown, the ideal is known only if they cannot change it: an upper bound is not an ideal.
    """
    if not earlier:
        return 0
    shared = reusable(turn, earlier)
    return None if match_unit is None or shared is None else shared.servable(match_unit)


def reusable(turn: Chat, earlier: Sequence[Chat]) -> Shared | None:
    """How much of the prompt of `turn` could be reused from the `earlier` turns of its session.

    That is the most that it shares with one of them, but never its last token. None where ids are
    unknown.
    """
    prompt = turn.prompt_token_ids
    if prompt is None or not earlier:
        return None
    found = [shared_with(prompt, one) for one in earlier]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    longest = max(0, len(prompt) - 1)
    return Shared(
        min(longest, max(one.least for one in known)), min(longest, max(one.most for one in known))
    )


def turn_facts(turn: Chat, ideal: int | None, loss: Loss | None = None) -> TurnFacts:
    """The facts of one turn, given its ideal and its loss against the ideal; None is unknown.

    A turn that hit more than its ideal shows that the ideal is wrong for this engine. Then the
    ideal and all that depends on it are None. If usage hides hits, the cached tokens are unknown.
    """
    usage = turn.usage
    prompt = usage.prompt_tokens if usage else None
    hidden = loss is not None and loss.cause is LossCause.UNREPORTED
    cached = usage.cached_tokens if usage and not hidden else None
    if beyond_ideal(cached, ideal):
        ideal = None
    return TurnFacts(
        index=turn.index,
        prompt_tokens=prompt,
        completion_tokens=usage.completion_tokens if usage else None,
        cached_tokens=cached,
        hit_ratio=_ratio(cached, prompt),
        tokens_saved=cached,
        ideal_cached_tokens=ideal,
        efficiency_ratio=_ratio(cached, ideal),
        ttft_seconds=turn.ttft_seconds,
        latency_seconds=turn.latency_seconds,
        inter_token_seconds=turn.inter_token_seconds,
        loss=None if ideal is None else loss,
        cached_tokens_source=None if cached is None else _source(usage),
    )


def _source(usage: Usage | None) -> CachedTokensSource | None:
    if usage is None or usage.cached_tokens is None:
        return None
    return usage.source


def beyond_ideal(cached: int | None, ideal: int | None) -> bool:
    """Whether the server reported more than exact-prefix caching can give."""
    return cached is not None and ideal is not None and cached > ideal


def _ratio(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole
