"""Evidence that the engine's own reuse rule made a hit shorter, and not eviction.

Many engines reuse less than exact-prefix caching could. EAGLE and MTP drop the last matched unit of
each hit. Engines with sliding windows or linear layers do not keep the blocks of an answer.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from exporter.analysis.reuse.match_unit import Hit
    from exporter.model.engine import EngineSnapshot

_OFTEN = 2
"""Short hits that must agree, without one that disagrees, to rule out chance."""


def reuse_rule_evidence(
    hit: Hit, match_unit: int, hits: Collection[Hit], engine: EngineSnapshot | None
) -> str | None:
    """The evidence in words, None without any. `hits` are those of this process, `hit` included."""
    short = [one for one in hits if not one.disturbed and one.short_of(match_unit)]
    parts, speculative = [], engine is not None and engine.speculative is True
    if hit.units_short_of(match_unit) == 1:
        always = len(short) >= _OFTEN and all(one.units_short_of(match_unit) == 1 for one in short)
        if always:
            parts.append(f"each short hit of this process lacks one unit of {match_unit} tokens")
        if speculative:
            parts.append(
                "vllm:spec_decode counters show that speculative decoding is on, and with EAGLE "
                f"or MTP vLLM drops the last unit ({match_unit} tokens) of each hit"
            )
    units = (match_unit, gcd(*(one.cached for one in hits)) or match_unit)
    if not (parts and speculative) and hit.ends_with_prompt_before(*units):
        ends = [one.ends_with_prompt_before(*units) for one in short]
        always = len(short) >= _OFTEN and all(ends)
        uneven = _has_different_layers(engine)
        if always or uneven:
            parts.append(
                "the hit ends with the prompt of the previous turn, as on engines with sliding "
                "windows or linear layers, which do not keep the blocks of an answer"
            )
        if uneven:
            parts.append(
                "kv_cache_size_tokens of vllm:cache_config_info is not num_gpu_blocks x "
                "block_size, so the model has layers of different kinds"
            )
    return "; ".join(parts) or None


def _has_different_layers(engine: EngineSnapshot | None) -> bool:
    """Whether the KV cache has groups of layers that keep different amounts per token."""
    cache = engine.cache if engine else None
    if engine is None or cache is None:
        return False
    size, blocks, block = cache.capacity_tokens, cache.num_blocks, cache.block_size
    if size is None or blocks is None or block is None:
        return False
    # With data parallelism the labels hold the blocks of all ranks, but the tokens of one rank.
    return size not in (blocks * block, blocks * block // max(1, engine.ranks))
