"""The facts of one turn: its hit, its ideal, what its engine could attain, and the cause of a loss.

- ideal: what exact-prefix caching could serve, in units of the label on /metrics.
- attainable: what the reuse rule of this engine lets it serve.
- ideal - attainable is what the rule gives up, by cause. attainable - cached is the loss.

A store below the engine's own cache serves whole chunks of the prompts that it has. Where it filled
a turn up with all of them, the rest is no loss, whatever happened to the engine's own cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.analysis.loss.causes import loss
from exporter.analysis.reuse.cache_math import ideal_tokens
from exporter.analysis.reuse.rule import given_up, stored, with_store_chunk
from exporter.model.engine import replica_name
from exporter.model.session import Loss, LossCause, TurnFacts

if TYPE_CHECKING:
    from exporter.analysis.loss.causes import Evidence
    from exporter.analysis.reuse.cache_math import Reusable
    from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
    from exporter.analysis.reuse.rule import Span
    from exporter.model.chat import CachedTokensSource, Chat, Usage
    from exporter.model.reuse import RuleLoss


@dataclass(frozen=True, slots=True)
class TurnBasis:
    """What a turn is judged by. `knowledge` is that of the process whose cache the turn could have
    hit. `shared` is None where token ids are unknown, `evidence` where the turn hit all that could
    be expected.
    """

    first: bool
    knowledge: EngineKnowledge
    shared: Reusable | None = None
    evidence: Evidence | None = None


def turn_facts(turn: Chat, basis: TurnBasis) -> TurnFacts:
    """The facts of one turn by all that is known of its engine now. Unknown values are None.

    A turn that hit more than its ideal shows that the ideal is wrong for this engine. Then the
    ideal and all that depends on it are None. If usage hides hits, the cached tokens are unknown.
    """
    usage = turn.usage
    cached = usage.cached_tokens if usage else None
    ideal = ideal_of(basis)
    if beyond_ideal(cached, ideal):
        ideal = None
    attainable = None if ideal is None else _attainable(basis, usage)
    lost = _loss(basis, usage, ideal, attainable)
    if lost is not None and lost.cause is LossCause.UNREPORTED:
        cached = None
    prompt = usage.prompt_tokens if usage else None
    return TurnFacts(
        index=turn.index,
        prompt_tokens=prompt,
        completion_tokens=usage.completion_tokens if usage else None,
        cached_tokens=cached,
        hit_ratio=_ratio(cached, prompt),
        tokens_saved=cached,
        ideal_cached_tokens=ideal,
        attainable_cached_tokens=attainable,
        efficiency_ratio=_ratio(cached, attainable),
        ttft_seconds=turn.ttft_seconds,
        latency_seconds=turn.latency_seconds,
        request_id=turn.request_id,
        inter_token_seconds=turn.inter_token_seconds,
        sent_at=turn.sent_at,
        loss=lost,
        rule_losses=_rule_losses(basis, ideal, attainable),
        cached_tokens_source=None if cached is None else _source(usage),
        replica=replica_name(turn.replica),
        external_cached_tokens=None if usage is None or cached is None else usage.external_tokens,
    )


def ideal_of(basis: TurnBasis) -> int | None:
    """The ideal of a turn, even if the hit is longer; None is unknown.

    A label that no unit of the engine is a multiple of is wrong. Then the ideal is in units of the
    rule.
    """
    if basis.first:
        return 0
    return ideal_tokens(basis.shared, basis.knowledge.block)


def expected_tokens(basis: TurnBasis) -> int | None:
    """What a turn should hit: by the reuse rule, or the ideal while that is unknown.

    While rules are open it is the most of them. A shorter hit decides between them only if nothing
    disturbed it, so it needs evidence.
    """
    known = basis.knowledge.learned
    if basis.shared is not None and known is not None and not basis.first:
        span = basis.shared.span(known)
        return None if span is None else span.most
    return ideal_of(basis)


def _attainable(basis: TurnBasis, usage: Usage | None) -> int | None:
    cached = usage.cached_tokens if usage else None
    if basis.first:
        return 0
    by_rule = _attainable_by_rule(basis, cached)
    if usage is None or cached is None or not usage.external_tokens:
        return by_rule
    if by_rule is None:  # a store can have what the rule of the engine's own cache gives up
        return cached if _beyond_rule(basis, cached) else None
    return _with_store(basis, cached, by_rule)


def _attainable_by_rule(basis: TurnBasis, cached: int | None) -> int | None:
    """What the rule of the engine's own cache lets it serve."""
    span = _span(basis)
    if span is None or (cached is not None and cached > span.most):
        return None
    if cached is not None:
        return span.nearest(cached)
    return span.least if span.least == span.most else None


def _beyond_rule(basis: TurnBasis, cached: int) -> bool:
    span = _span(basis)
    return span is not None and cached > span.most


def _span(basis: TurnBasis) -> Span | None:
    if basis.shared is None or basis.knowledge.learned is None:
        return None
    return basis.shared.span(basis.knowledge.learned)


def _with_store(basis: TurnBasis, cached: int, attainable: int) -> int | None:
    """What a turn could attain that a store filled up; None while the store's chunk is unknown."""
    if cached >= attainable:
        return attainable
    chunk, shared = basis.knowledge.store_chunk, basis.shared
    if chunk is None or shared is None:
        return None
    return cached if cached >= stored(chunk, shared.least) else attainable


def _loss(
    basis: TurnBasis, usage: Usage | None, ideal: int | None, attainable: int | None
) -> Loss | None:
    expected = ideal if attainable is None else attainable
    cached = usage.cached_tokens if usage else None
    if usage is None or cached is None or expected is None:
        return None
    if usage.external_tokens and _with_store(basis, cached, expected) != expected:
        return None
    if basis.evidence is not None:
        known = attainable is not None
        return loss(
            basis.evidence.judged_by(
                basis.knowledge, cached=cached, expected=expected, rule_known=known
            )
        )
    if attainable is None or cached >= attainable:
        return None
    return Loss(attainable - cached, LossCause.UNEXPLAINED, _SEEN_LATE)


_SEEN_LATE = (
    "the turn hit all that was expected then; the hits of later turns showed that this engine "
    "serves more"
)


def _rule_losses(
    basis: TurnBasis, ideal: int | None, attainable: int | None
) -> tuple[RuleLoss, ...]:
    known, block = basis.knowledge.learned, basis.knowledge.block
    if ideal is None or attainable is None or known is None or block is None:
        return ()
    prefix = basis.shared.least if basis.shared else None
    if prefix is None or attainable >= ideal:
        return ()
    by_rule = min(ideal, max(attainable, known.span(prefix).least))
    parts = given_up(known.rule_for(prefix, by_rule), ideal, by_rule, block, prefix)
    return with_store_chunk(parts, by_rule - attainable) if by_rule > attainable else parts


def _source(usage: Usage | None) -> CachedTokensSource | None:
    if usage is None or usage.cached_tokens is None:
        return None
    return usage.source


def beyond_ideal(cached: int | None, ideal: int | None) -> bool:
    """Whether the server reported more than exact-prefix caching can give."""
    return cached is not None and ideal is not None and cached > ideal


def _ratio(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole
