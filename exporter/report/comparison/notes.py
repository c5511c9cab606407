"""What a reader of a comparison must know besides its numbers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.paired import LEAST_PAIRS
from exporter.model.session import Notice
from exporter.report.comparison.facts import paired_rounds
from exporter.wording import numbers
from exporter.wording.notices import ADVICE
from exporter.wording.reuse_rules import rule_in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.report.comparison.facts import Comparison, Side

_SAME_LENGTH = 0.02
"""First prompts that differ by more than this share are different work."""


def comparison_notes(comparison: Comparison) -> list[str]:
    """Sentences, the most serious first."""
    sides = comparison.sides
    notes = [failure for side in sides for failure in side.failures]
    if not comparison.interleaved:
        notes.append(
            "The sessions of the sides were not played in turn, so any change on the machine or in "
            "its load in between is part of the difference."
        )
    pairs = min((len(paired_rounds(sides[0], side)) for side in sides[1:]), default=0)
    if pairs < LEAST_PAIRS:
        notes.append(
            f"{pairs} pair{'' if pairs == 1 else 's'} of sessions cannot show a difference at the "
            f"5 % level: at least {LEAST_PAIRS} are needed."
        )
    notes += _length_notes(sides)
    notes += _rule_notes(comparison)
    for side in sides:
        notices = sorted(side.notices - {Notice.SIMULATED})
        notes += [f"{side.source}: {ADVICE[notice]}" for notice in notices]
    return list(dict.fromkeys(notes))


def _rule_notes(comparison: Comparison) -> list[str]:
    """What the engines' reuse rules give up, if they differ: it is part of the hit ratio."""
    if comparison.cold or len({round(side.given_up) for side in comparison.sides}) == 1:
        return []
    return [
        f"By its reuse rule {side.name} gives up about "
        f"{numbers.tokens(max(1, round(side.given_up)))} a turn ({rule_in_words(side.reuse_rule)})."
        " That is part of the difference in hit ratio, and no loss."
        for side in comparison.sides
        if side.given_up and side.reuse_rule is not None
    ]


def _length_notes(sides: Sequence[Side]) -> list[str]:
    first = sides[0]
    notes = []
    for side in sides[1:]:
        here, there = first.first_prompt_tokens, side.first_prompt_tokens
        if here and there and abs(there - here) > _SAME_LENGTH * here:
            notes.append(
                f"The first prompt has {numbers.tokens(here)} on {first.name} and "
                f"{numbers.tokens(there)} on {side.name}, so the two do different work per "
                "turn. Compare their hit ratios and the cost of a miss, not their times."
            )
    return notes
