"""A turn that lost all of its prefix, and what can be known about it."""

from __future__ import annotations

from exporter.analysis.hits.traffic import Traffic
from exporter.analysis.loss.causes import Evidence
from exporter.analysis.reuse.repeated_prompt import Repeat

QUIET = Traffic(foreign=0, alone=True, unreported_hits=0, hits_beyond=0)
BUSY = Traffic(foreign=50_000, alone=False, unreported_hits=None)
MISSED_AGAIN, HIT_AGAIN = Repeat(0, QUIET, same_ids=True), Repeat(960, QUIET, same_ids=True)
LOST = Evidence(
    cached=0,
    expected=960,
    prompt=1000,
    match_unit=32,
    prefix_caching=True,
    restarted=False,
    ranks=1,
    room=30_000,
    traffic=QUIET,
    hit_before=True,
    rule_known=True,
    repeat_hit=992,
)
