"""A comparison as JSON. Keys may be added at the end; none is renamed or removed. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exporter.model.json_fields import rfc3339
from exporter.report.comparison.notes import comparison_notes

if TYPE_CHECKING:
    from exporter.report.comparison.facts import Comparison, Contrast, Side


def comparison_json(comparison: Comparison, *, interrupted: bool) -> dict[str, Any]:
    """Seconds, tokens, ratios 0…1. Unknown is null; a quantity without any known value is absent.
    `sessions` are the readings that everything else is computed from, null for a failed one.
    """
    return {
        "started": rfc3339(comparison.started_time),
        "simulated": comparison.simulated,
        "rounds": comparison.rounds,
        "turns": comparison.turns,
        "sides": [_side(side) for side in comparison.sides],
        "contrasts": [_contrast(comparison.sides[0].name, each) for each in comparison.contrasts],
        "notes": comparison_notes(comparison),
        "interrupted": interrupted,
    }


def _side(side: Side) -> dict[str, Any]:
    penalty = side.penalty
    return {
        "name": side.name,
        "source": side.source,
        "model": side.model,
        "engine_version": side.engine_version,
        "simulated": side.simulated,
        "scenario": side.scenario,
        "failures": list(side.failures),
        "spreads": {quantity: asdict(known) for quantity, known in side.spreads.items()},
        "penalty_of_a_miss": None
        if penalty is None
        else {
            "tokens": penalty.tokens,
            "prefill_seconds": penalty.seconds,
            "error_seconds": penalty.error_seconds,
            "seconds_per_token": penalty.cost.seconds_per_token,
            "floor_seconds": penalty.cost.floor_seconds,
            "points": penalty.cost.points,
        },
        "sessions": [
            None if one is None else [asdict(reading) for reading in one] for one in side.rounds
        ],
        "reuse_rule": None if side.reuse_rule is None else asdict(side.reuse_rule),
    }


def _contrast(first: str, contrast: Contrast) -> dict[str, Any]:
    miss = contrast.miss_seconds
    return {
        "side": contrast.name,
        "minus": first,
        "differences": {
            quantity: asdict(found) | {"adjusted_p": contrast.adjusted_p.get(quantity)}
            for quantity, found in contrast.differences.items()
        },
        "miss_ttft_seconds": None if miss is None else asdict(miss),
    }
