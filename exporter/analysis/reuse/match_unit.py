"""The match unit (the step that hit lengths come in), found from the hits themselves.

`vllm:cache_config_info` names a unit, but some engines use another one: hybrid models use a
multiple of it, such as 528 where the label says 16. Every hit is a multiple of the true unit, so
the greatest common divisor of all hits is a multiple of it, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LEAST_HITS = 3
"""Hits needed to find a unit: the common divisor of only two is often twice the unit."""


@dataclass(frozen=True, slots=True)
class Hit:
    """The tokens that one turn hit, and the tokens of its prompt that could have been reused.

    `disturbed`: other requests may have evicted blocks, so the hit may be shorter than the engine's
    rule allows. `prompt_before` is the length of the previous turn's prompt.
    """

    reusable: int
    cached: int
    disturbed: bool = False
    prompt_before: int | None = None

    def short_of(self, unit: int) -> bool:
        """Whether a cache with this unit could have served more tokens."""
        return self.units_short_of(unit) > 0

    def units_short_of(self, unit: int) -> int:
        """How many more whole units a cache with this unit could have served."""
        return self.reusable // unit - self.cached // unit

    def ends_with_prompt_before(self, *units: int) -> bool:
        """Whether a short hit is exactly the previous turn's prompt, without its answer.

        The length is in whole units of one of these sizes.
        """
        if self.prompt_before is None or not self.short_of(units[0]):
            return False
        before = max(0, self.prompt_before - 1)
        return self.cached in [before // unit * unit for unit in units]


def match_unit(label: int | None, hits: Iterable[Hit]) -> int | None:
    """The unit by the label on /metrics and by hits of one engine process; None if undecided.

    The label holds while it explains the hits. Hits can be multiples of the label and still shorter
    than it allows: then the common divisor is the unit, after three hits, if it explains most of
    them, or all but one unit of each. A hit that is no multiple of the label disproves it: then the
    common divisor is the unit if it explains most hits.
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
