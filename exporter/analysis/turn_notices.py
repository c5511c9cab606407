"""The notices of a session: what a reader of its numbers must know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.turn_facts import beyond_ideal
from exporter.model.chat import CachedTokensSource
from exporter.model.session import Notice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.analysis.reuse.cache_math import EngineCircumstances
    from exporter.model.chat import Chat, Usage
    from exporter.model.session import TurnFacts


def turn_notices(turn: Chat, ideal: int | None, circumstances: EngineCircumstances) -> set[Notice]:
    """The notices of one turn. `ideal` is as computed, even if the hit is longer."""
    usage = turn.usage
    cached = usage.cached_tokens if usage else None
    no_ids = turn.prompt_token_ids is None or (
        turn.completion_token_ids is None and not turn.ids_recovered
    )
    notices = {
        Notice.USAGE_MISSING: usage is None and turn.usage_fault is None,
        Notice.USAGE_UNUSABLE: usage is None and turn.usage_fault is not None,
        Notice.TRANSFER: usage is not None and usage.transferred,
        Notice.PREFIX_CACHING_DISABLED: circumstances.prefix_caching is False,
        Notice.TOKEN_IDS_MISSING: no_ids,
        Notice.TOKEN_IDS_RECOVERED: turn.ids_recovered and not no_ids,
        Notice.MATCH_UNIT_UNKNOWN: circumstances.match_unit_tokens is None,
        Notice.MATCH_UNIT_DIFFERS: circumstances.label_is_wrong,
        Notice.FIRST_TURN_NOT_COLD: turn.index == 1 and bool(cached),
        Notice.HIT_BEYOND_IDEAL: turn.index > 1 and beyond_ideal(cached, ideal),
    }
    return {notice for notice, applies in notices.items() if applies}


def usage_notice(usages: Sequence[Usage], *, lacking: bool) -> Notice | None:
    """The notice about how a session's cached tokens are known, if any.

    `lacking`: a usage did not report what its server should report.
    """
    if any(usage.source is CachedTokensSource.COUNTERS for usage in usages):
        return Notice.CACHED_FROM_COUNTERS
    if lacking:
        return Notice.USAGE_DETAILS_MISSING
    unknown = any(usage.cached_tokens is None and not usage.transferred for usage in usages)
    return Notice.CACHED_TOKENS_UNKNOWN if unknown else None


def length_notices(
    turns: Sequence[TurnFacts], match_unit: int | None, *, padded: bool
) -> set[Notice]:
    """The notices of a session whose prompts are short for the match unit."""
    prompts = [turn.prompt_tokens for turn in turns if turn.prompt_tokens is not None]
    if match_unit is None or not prompts:
        return set()
    if padded:
        return {Notice.BLOCK_TOO_LARGE} if max(prompts) <= match_unit else set()
    return {Notice.OPENING_SHORT} if prompts[0] < 2 * match_unit else set()
