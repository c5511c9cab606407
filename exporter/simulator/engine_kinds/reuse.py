"""The reuse rule of an engine: all full blocks, or fewer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.simulator.faults import behaviours

if TYPE_CHECKING:
    from exporter.simulator.faults.faults import ActiveFaults


@dataclass(frozen=True, slots=True)
class ReuseRule:
    """Sizes are tokens. `unit` None: hits land on whole blocks."""

    unit: int | None = None
    dropped_units: int = 0  # from the end of each hit
    keeps_answers: bool = True
    sightings: int = 2  # a prefix hits at this occurrence

    def served(self, tokens: int, block_size: int) -> int:
        """How many tokens of a cached prefix of `cached` tokens are served."""
        unit = self.unit or block_size
        return max(0, tokens // unit - self.dropped_units) * unit


PLAIN = ReuseRule()


def rule_of(faults: ActiveFaults) -> ReuseRule:
    """The rule of an engine with these behaviours."""
    unit, late = faults.get(behaviours.HitUnit), faults.get(behaviours.LateHits)
    return ReuseRule(
        unit=None if unit is None else unit.tokens,
        dropped_units=0 if faults.get(behaviours.DropLastUnit) is None else 1,
        keeps_answers=faults.get(behaviours.ForgetAnswers) is None,
        sightings=2 if late is None else late.sightings,
    )
