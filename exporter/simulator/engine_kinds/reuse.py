"""How an engine reuses blocks: all full blocks, or fewer, as vLLM's groups of layers need them.

The source is vLLM 0.32.0: `find_longest_cache_hit` and `reachable_block_mask` in
v1/core/single_type_kv_cache_manager.py, `replay_boundaries` in v1/core/kv_cache_coordinator.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.simulator.faults import behaviours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.simulator.faults.faults import ActiveFaults


@dataclass(frozen=True, slots=True)
class ReuseRule:
    """Sizes are tokens. `unit` is what the block sizes of all groups divide; None: a block.

    `dense`: every group keeps every block. Otherwise sliding or linear groups keep the blocks that
    a hit at a *replay boundary* needs: those of the `window` before it, or the last one if the
    window is None. `full`: full-attention groups are beside them. `look_ahead`: a block hits only
    with this many tokens after it.
    """

    unit: int | None = None
    drops_last: bool = False  # from the end of each hit, one unit
    dense: bool = True
    window: int | None = None
    full: bool = True
    look_ahead: int = 0
    sightings: int = 2  # a prefix hits at this occurrence

    def unit_of(self, block: int) -> int:
        return self.unit or block

    def longest(self, prompt: int) -> int:
        """The tokens of a prompt that a lookup may match.

        The last token is always computed. If several groups are looked up, vLLM matches a block
        more for each one that drops it again.
        """
        several = not self.dense and self.full
        return prompt if self.drops_last and several else prompt - 1

    def served(self, tokens: int, block: int) -> int:
        """How many of `tokens` matching tokens full-attention groups serve."""
        unit = self.unit_of(block)
        return max(0, tokens // unit - self.drops_last) * unit

    def needed(self, end: int, block: int) -> tuple[int, int]:
        """The tokens whose blocks a sparse group needs for a hit up to `end`, from and to.

        With a draft model a sliding group matches a block after the hit, which it drops.
        """
        unit = self.unit_of(block)
        if self.window is None:
            return end - unit, end
        blocks = -(-(self.window - 1) // unit)
        return max(0, end - blocks * unit), end + unit * self.drops_last

    def boundaries(self, prompt: int, block: int) -> Iterator[int]:
        """Where a later request that begins with this prompt can resume."""
        unit = self.unit_of(block)
        if not self.drops_last:
            yield (prompt - 1) // unit * unit
            return
        for end in {prompt - 1, prompt}:
            yield max(0, end // unit - 1) * unit


PLAIN = ReuseRule()


def rule_of(faults: ActiveFaults) -> ReuseRule:
    """The rule of an engine with these behaviours."""
    unit, late = faults.get(behaviours.HitUnit), faults.get(behaviours.LateHits)
    sparse, ahead = faults.get(behaviours.ForgetAnswers), faults.get(behaviours.LookAhead)
    return ReuseRule(
        unit=None if unit is None else unit.tokens,
        drops_last=faults.get(behaviours.DropLastUnit) is not None,
        dense=sparse is None,
        window=None if sparse is None else sparse.window,
        full=sparse is None or sparse.full_groups > 0,
        look_ahead=0 if ahead is None else ahead.tokens,
        sightings=2 if late is None else late.sightings,
    )
