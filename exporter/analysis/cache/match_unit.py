"""The unit that hits land on, by the hits themselves. Pure.

`vllm:cache_config_info` names a unit, and on several kinds of engine hits land on another one: on
hybrid models a multiple of it, such as 528 where the label says 16. What hits is always a multiple
of the true unit, so the greatest common divisor of what hit is one, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LEAST_HITS = 3
"""How many hits tell a unit: the divisor of two is often twice the unit."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What one turn hit, and how many tokens of its prompt were there to be reused.

    `disturbed`: others may have pushed blocks out, so that it may have hit less than it could.
    `prompt_before` is the length of the prompt of the turn before.
    """

    reusable: int
    cached: int
    disturbed: bool = False
    prompt_before: int | None = None

    def short_of(self, unit: int) -> bool:
        """Whether a cache with this unit could have served more."""
        return self.units_short_of(unit) > 0

    def units_short_of(self, unit: int) -> int:
        """How many whole units more a cache with this unit could have served."""
        return self.reusable // unit - self.cached // unit

    def ends_with_prompt_before(self, *units: int) -> bool:
        """Whether it fell short, and hit all of the prompt of the turn before and none of its
        answer, in whole units of one of these sizes.
        """
        if self.prompt_before is None or not self.short_of(units[0]):
            return False
        before = max(0, self.prompt_before - 1)
        return self.cached in [before // unit * unit for unit in units]


def match_unit(label: int | None, hits: Iterable[Hit]) -> int | None:
    """The unit, from what /metrics says and from hits of one engine process; None while open.

    The label holds as long as it explains what hit. Where hits are multiples of it that stop short
    of what it promises, and a larger unit explains most of them, or does so but for the last unit
    of each, three decide. Where a hit is no multiple of the label, the label is wrong, and the hits
    alone tell, if one unit explains most.
    """
    hit = [one for one in hits if one.cached > 0]
    common = gcd(*(one.cached for one in hit))
    if label is None or common in (0, label):
        return label
    sound = [one for one in hit if not one.disturbed]
    if common % label:
        explained = [one for one in sound if not one.short_of(common)]
        lengths = {one.cached for one in explained}
        return common if len(lengths) >= LEAST_HITS and _most(explained, sound) else None
    short = [one for one in sound if one.short_of(label)]
    dropped = bool(short) and all(one.units_short_of(common) == 1 for one in short)
    explained = [one for one in short if dropped or not one.short_of(common)]
    if not _most(explained, short):
        return label
    return common if len(sound) >= LEAST_HITS and len(explained) > 1 else None


def _most(some: Sequence[Hit], of: Sequence[Hit]) -> bool:
    return 2 * len(some) > len(of)
