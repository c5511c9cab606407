"""The sizes of a cache as `vllm:cache_config_info` shows them.

`kv_cache_size_tokens` is the tokens of as many longest requests as fit at once
(`get_kv_cache_capacity` in v1/core/kv_cache_utils.py of vLLM 0.32.0). Each group of layers takes
its own blocks for them, so it is not blocks x block size if groups slide or are linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.simulator.faults import behaviours

if TYPE_CHECKING:
    from exporter.simulator.engine_kinds.settings import SimulatorSettings
    from exporter.simulator.faults.faults import ActiveFaults

_LINEAR_BLOCKS = 2  # of each linear group, for one request


@dataclass(frozen=True, slots=True)
class CacheSize:
    """`tokens` is what the cache holds. `sliding_window` is set if every layer slides."""

    block_size: int
    num_blocks: int
    tokens: int
    match_unit: int | None = None
    sliding_window: int | None = None
    linear: bool = False


def cache_size(
    settings: SimulatorSettings, faults: ActiveFaults, num_blocks: int, max_model_len: int
) -> CacheSize:
    """The labels of a cache that holds `num_blocks` blocks of tokens."""
    label, unit = faults.get(behaviours.BlockLabel), faults.get(behaviours.HitUnit)
    block = settings.block_size if label is None else label.tokens
    tokens, shown = num_blocks * settings.block_size, num_blocks
    sparse = faults.get(behaviours.ForgetAnswers)
    if sparse is None:
        if unit is not None:
            shown = max(1, tokens // unit.tokens)  # vLLM counts pages of the largest group
    else:
        sliding_block = block if unit is None else unit.tokens
        step = settings.max_num_batched_tokens
        blocks = _blocks_of_a_request(sparse, block, sliding_block, max_model_len, step)
        shown = max(1, tokens * blocks // max_model_len)
        tokens = shown * max_model_len // blocks
    if faults.get(behaviours.PageOf) is None:
        shown *= settings.engine_ranks  # the sum of all ranks, where the tokens are of one
    return CacheSize(
        block_size=block,
        num_blocks=shown,
        tokens=tokens,
        match_unit=None if label is None else label.match_unit,
        sliding_window=sparse.window if sparse and not sparse.full_groups else None,
        linear=sparse is not None and sparse.window is None,
    )


def _blocks_of_a_request(
    layers: behaviours.ForgetAnswers, block: int, sliding_block: int, longest: int, step: int
) -> int:
    """The blocks that a request of the `longest` length takes from the pool."""
    full = layers.full_groups * -(-longest // block)
    if layers.window is None:
        return full + layers.groups * _LINEAR_BLOCKS
    window = min(layers.window - 1 + step, longest)
    return full + layers.groups * (-(-window // sliding_block) + 1)
