"""Cached tokens that did not come from a prefix cache: KV that another engine computed.

In a disaggregated deployment a decode node gets a prompt's KV from a prefill node. Its usage counts
that as cached: all of every prompt, or all but the last token, even of a new prompt. A prompt that
begins with a nonce shows it, because no cache can hold that prompt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.analysis.reuse.repeated_prompt import long_enough, most_cached

if TYPE_CHECKING:
    from exporter.model.chat import Usage


def counts_all_as_cached(usage: Usage | None, match_unit: int | None) -> bool:
    """Whether usage counts a whole prompt as cached, or nearly so.

    A hit on a prompt that was sent before can look the same: an external cache can serve all of it
    but the last token. So only a new prompt proves a transfer (`EngineKnowledge.transfers`).
    """
    if usage is None or not usage.cached_tokens:
        return False
    prompt, cached = usage.prompt_tokens, usage.cached_tokens
    if cached >= prompt - 1:
        return True
    if match_unit is None or not long_enough(prompt, match_unit):
        return False
    return cached >= most_cached(prompt, match_unit)


def without_transfer(usage: Usage | None, match_unit: int | None) -> Usage | None:
    """Usage of a process that is known to count transfers: its cached tokens are unknown then."""
    if usage is None or not counts_all_as_cached(usage, match_unit):
        return usage
    return replace(usage, cached_tokens=None, external_tokens=None, transferred=True)
