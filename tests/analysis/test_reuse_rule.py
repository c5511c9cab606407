"""Evidence for an engine's own reuse rule: only what was seen more than once, or is known."""

from dataclasses import replace
from pathlib import Path

import pytest

from exporter.analysis.reuse.match_unit import Hit
from exporter.analysis.reuse.reuse_rule import reuse_rule_evidence
from exporter.engine.metrics.exposition import parse

PAGE = (Path(__file__).parent / "data" / "devevict_metrics.txt").read_bytes()
PLAIN = parse(PAGE, at=0, scrape_seconds=0)
SPECULATIVE = replace(PLAIN, speculative=True)
UNEVEN = replace(PLAIN, cache=replace(PLAIN.cache, capacity_tokens=1800))
TWO_RANKS = replace(PLAIN, ranks=2, cache=replace(PLAIN.cache, num_blocks=128))

ONE_SHORT = [Hit(1000, 960), Hit(1100, 1056)]  # of 992 and 1088 in units of 32
ALSO_WHOLE = [*ONE_SHORT, Hit(1200, 1184)]
MORE_SHORT = [*ONE_SHORT, Hit(1200, 1088)]
NO_ANSWERS = [Hit(1000, 928, prompt_before=950), Hit(1200, 1120, prompt_before=1130)]
IN_64 = [Hit(1000, 896, prompt_before=950), Hit(1200, 1088, prompt_before=1130)]


@pytest.mark.parametrize(
    ("hits", "engine", "words"),
    [
        (ONE_SHORT, PLAIN, "lacks one unit of 32 tokens"),
        (ALSO_WHOLE[::-1], PLAIN, "lacks one unit"),  # n-grams drop a unit now and then
        (ONE_SHORT[:1], PLAIN, None),  # once may be chance
        (ONE_SHORT[:1], SPECULATIVE, "speculative decoding is on"),
        (MORE_SHORT[::-1], PLAIN, None),
        (MORE_SHORT[::-1], SPECULATIVE, "speculative decoding is on"),
        ([replace(one, disturbed=True) for one in ONE_SHORT], PLAIN, None),
        (NO_ANSWERS, PLAIN, "ends with the prompt of the previous turn"),
        (NO_ANSWERS[:1], PLAIN, None),
        (NO_ANSWERS[:1], UNEVEN, "is not num_gpu_blocks x block_size"),
        (NO_ANSWERS[:1], TWO_RANKS, None),  # the label has the blocks of both
        (IN_64, UNEVEN, "ends with the prompt of the previous turn"),
        ([Hit(3000, 320)], SPECULATIVE, None),
        ([Hit(3000, 320)], None, None),
    ],
)
def test_the_evidence_names_each_reason_that_applies(hits, engine, words):
    found = reuse_rule_evidence(hits[-1], 32, hits, engine)
    if words is None:
        assert found is None
    else:
        assert words in found
