"""Cached tokens that no prefix cache served: KV that another engine computed. Pure.

A decode node of a disaggregated deployment gets a prompt's KV from a prefill node, and its usage
counts that as cached: all of every prompt but the last token, or all, also of a prompt that nobody
sent before. A prompt with words of its own at the head tells: a cache cannot have it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.analysis.cache.repeat import long_enough, most_cached

if TYPE_CHECKING:
    from exporter.model.chat import Usage


def whole(usage: Usage | None, match_unit: int | None) -> bool:
    """Whether usage counts as good as all of a prompt as cached.

    A hit on a prompt that was sent before may look the same: an external store can serve all of it
    but the last token. So only a prompt that is new tells a transfer (`EngineMemory.transfers`).
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
    """Usage of a process that is known to count transfers: how much was a hit is unknown then."""
    if usage is None or not whole(usage, match_unit):
        return usage
    return replace(usage, cached_tokens=None, transferred=True)
