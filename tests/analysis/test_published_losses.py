"""What an engine publishes about a session's blocks counts more than bounds of its traffic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from loss_evidence_records import BUSY, HIT_AGAIN, LOST, MISSED_AGAIN

from exporter.analysis.loss.causes import loss, needs_repeat
from exporter.model.kv_events import LostBlocks
from exporter.model.session import LossCause

THERE = LostBlocks(held=30, covered=960)
REMOVED = LostBlocks(held=30, removed=12, again=12, covered=960)
UNNEEDED = LostBlocks(held=30, removed=12, covered=960)
CLEARED = LostBlocks(held=0, cleared=True, covered=960)
CROWDED = replace(LOST, traffic=BUSY)


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (replace(LOST, blocks=REMOVED), LossCause.EVICTED),  # though others used nothing
        (replace(LOST, blocks=REMOVED, repeat=MISSED_AGAIN), LossCause.EVICTED),
        (replace(LOST, blocks=REMOVED, ranks=2), LossCause.EVICTED),
        (replace(LOST, blocks=REMOVED, cached=576), LossCause.EVICTED),
        (replace(LOST, blocks=replace(REMOVED, covered=0)), LossCause.EVICTED),
        (replace(CROWDED, blocks=CLEARED), LossCause.RESET),
        (replace(CROWDED, blocks=CLEARED, ranks=2), LossCause.RESET),
        (replace(CROWDED, blocks=CLEARED, repeat=MISSED_AGAIN), LossCause.RESET),
        (replace(LOST, blocks=CLEARED, hit_before=False), LossCause.RESET),
        (replace(CROWDED, blocks=replace(REMOVED, cleared=True)), LossCause.RESET),
        (replace(CROWDED, blocks=THERE), LossCause.UNEXPLAINED),
        (replace(CROWDED, blocks=THERE, ranks=2), LossCause.OTHER_RANK),
        (replace(LOST, blocks=THERE, repeat=HIT_AGAIN), LossCause.UNEXPLAINED),  # no reset
        (replace(LOST, blocks=THERE, restarted=True), LossCause.RESTART),
        (replace(LOST, blocks=REMOVED, restarted=True), LossCause.RESTART),
        # Where the events leave it open, the bounds decide.
        (replace(CROWDED, blocks=UNNEEDED), LossCause.EVICTED),
        (replace(LOST, blocks=UNNEEDED), LossCause.UNEXPLAINED),
        (replace(CROWDED, blocks=replace(THERE, covered=959)), LossCause.EVICTED),
    ],
)
def test_the_cause_is_what_the_engine_published(evidence, cause):
    assert loss(evidence).cause is cause


def test_the_evidence_has_the_number_of_blocks():
    assert loss(replace(LOST, blocks=REMOVED)).evidence == (
        "the engine removed 12 of this session's 30 blocks since the turn before, as its KV events "
        "say (BlockRemoved)"
    )
    assert loss(replace(LOST, blocks=CLEARED)).evidence == (
        "the engine emptied its whole cache since the turn before, as its KV events say "
        "(AllBlocksCleared)"
    )
    unexplained = loss(replace(CROWDED, blocks=THERE)).evidence
    assert "the engine removed no block of the session, as its KV events say" in unexplained
    assert "other traffic" not in unexplained


@pytest.mark.parametrize(("blocks", "sent"), [(None, True), (REMOVED, False), (CLEARED, False)])
def test_no_prompt_is_sent_again_where_the_engine_has_said_the_cause(blocks, sent):
    assert needs_repeat(replace(LOST, blocks=blocks)) is sent
