"""The rolling hit ratio of all traffic, from totals that never fall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.model.engine import EngineTotals

WINDOWS: Mapping[str, float] = {"1m": 60.0, "5m": 300.0, "1h": 3600.0}  # seconds

_LONGEST = max(WINDOWS.values())
_SPACING = 5.0
"""Seconds. Closer samples are dropped, except the newest."""
_RECENT = WINDOWS["5m"]
_OLD_SPACING = 120.0
"""Seconds between samples that only the longest window needs. So there are about 90 at most, and
the longest window begins two minutes late at most."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Both counters at one moment, in tokens, added up over restarts."""

    at: float
    queried: float
    hit: float


def observe(
    samples: tuple[Sample, ...], totals: EngineTotals, *, at: float, whole: bool
) -> tuple[Sample, ...]:
    """The samples with one more, oldest first, without those older than the longest window.

    `whole`: the engine gave both counters this time. If not, all samples are dropped: after a
    restart in that time, a difference would contain one counter's growth and not the other's.
    """
    if not whole or totals.queried_tokens is None or totals.hit_tokens is None:
        return ()
    newest = Sample(at, totals.queried_tokens, totals.hit_tokens)
    kept: list[Sample] = []
    for sample in samples:
        if sample.at >= at - _LONGEST and not (kept and _too_close(kept[-1], sample, at)):
            kept.append(sample)
    return (*kept, newest)


def _too_close(earlier: Sample, later: Sample, now: float) -> bool:
    spacing = _SPACING if later.at >= now - _RECENT else _OLD_SPACING
    return later.at - earlier.at < spacing


def hit_ratios(samples: tuple[Sample, ...], *, at: float) -> dict[str, float]:
    """Hits / lookups within each window, from its oldest sample to the newest.

    A window with fewer than two samples or without lookups is left out. So the 1m window is always
    there only if the engine is read at least every 30 seconds.
    """
    ratios = {}
    for name, seconds in WINDOWS.items():
        ratio = _ratio([sample for sample in samples if sample.at >= at - seconds])
        if ratio is not None:
            ratios[name] = ratio
    return ratios


def _ratio(inside: list[Sample]) -> float | None:
    if not inside:
        return None
    queried = inside[-1].queried - inside[0].queried
    hit = inside[-1].hit - inside[0].hit
    # More hits than lookups: the two counters do not belong together.
    return hit / queried if 0 <= hit <= queried and queried > 0 else None
