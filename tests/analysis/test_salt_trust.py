"""How long an engine counts as one that ignores salts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from publish_records import engine_view

from exporter.analysis.salt_trust import Process, SaltTrust, knows_salts, process_of
from exporter.model.engine import EngineInfo

INFO = EngineInfo("tiny", 8192, "0.31.0", simulated=False)
KNOWN = Process("0.31.0", 1_700_000_000.0, 0)


def test_a_process_is_known_as_far_as_its_pages_show():
    view = engine_view()
    start = view.snapshot.process_start_time
    assert process_of(INFO, view) == Process("0.31.0", start, view.restarts)
    assert process_of(INFO, replace(view, snapshot=None)) == Process("0.31.0")
    assert process_of(INFO, None) == Process("0.31.0")
    assert process_of(INFO, replace(view, mixed=True)) is None


@pytest.mark.parametrize(
    "later",
    [
        Process("0.32.0"),
        Process("0.31.0", 1_700_000_100.0, 0),
        Process("0.31.0", None, 1),
        Process("0.32.0", 1_700_000_000.0, 0),
    ],
)
def test_another_process_is_trusted_again(later):
    trust = SaltTrust()
    trust.distrust(KNOWN)
    assert trust.ignored(KNOWN)
    assert not trust.ignored(later)
    assert not trust.ignored(KNOWN)


@pytest.mark.parametrize("same", [Process("0.31.0"), Process(None, 1_700_000_000.0, 0), None])
def test_a_process_that_may_be_the_same_is_not_trusted_again(same):
    trust = SaltTrust()
    trust.distrust(KNOWN)
    assert trust.ignored(same)


def test_an_upgrade_is_seen_also_where_no_metrics_could_be_read():
    trust = SaltTrust()
    trust.distrust(Process("0.31.0"))
    assert trust.ignored(Process("0.31.0"))
    assert not trust.ignored(Process("0.32.0"))


def test_later_facts_about_a_process_show_its_restart():
    trust = SaltTrust()
    trust.distrust(Process("0.31.0"))
    assert trust.ignored(KNOWN), "it may be the one that ignored them"
    assert not trust.ignored(Process("0.31.0", 1_700_000_100.0, 1))


def test_salts_ignored_by_an_unknown_process_are_tried_again_with_a_known_one():
    trust = SaltTrust()
    trust.distrust(None)
    assert trust.ignored(None)
    assert not trust.ignored(KNOWN)


@pytest.mark.parametrize(
    ("version", "knows"),
    [("0.8.5", False), ("0.8.5.post1", False), ("0.9.0", True), ("0.9.2.post2", True),
     ("0.10.2", True), ("0.32.0", True), ("1.4.2", True), (None, True)],
)  # fmt: skip
def test_a_version_before_salts_ignores_them_before_a_session_shows_it(version, knows):
    assert knows_salts(version) is knows
    assert SaltTrust().ignored(Process(version, 1_700_000_000.0, 0)) is not knows
    assert not SaltTrust().ignored(None)
