"""Engines with a reuse rule whose caches lose blocks: the loss is seen, and the rule stays."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import pytest
from right_answers import RIGHT
from served import watch

from exporter.simulator.faults.behaviours import Company, HitUnit
from exporter.simulator.faults.faults import SmallCache

KINDS = ("eagle", "sliding-window", "hybrid-528", "gemma4")
each_kind = pytest.mark.parametrize("name", KINDS)
SESSIONS = 4  # the first shows the rule
QUIET = {
    "probe.control_ratio": "0",
    "probe.isolation_interval_seconds": "86400",
    "probe.retention_gaps_seconds": "[]",
}


def every(turns, act):
    """Call `act(engine)` before every so many requests, while none is in the engine."""

    def begin(engine):
        seen, opened = [0], engine.http_open

        async def http_open():
            await opened()
            submitted = engine._submitted
            if submitted - seen[0] >= turns and not any(rank.load for rank in engine.ranks):
                seen[0] = submitted
                done = act(engine)
                if asyncio.iscoroutine(done):
                    await done

        engine.http_open = http_open

    return begin


def crowd(engine):
    """Another client with long prompts, in a cache that has no room for both."""
    longer = engine.faults.get(HitUnit) == HitUnit(528)  # its sessions are
    room, others = (6000, 1500) if longer else (1500, 500)
    engine.inject(SmallCache(room // engine.settings.block_size))
    engine.inject(Company(others))


def played(loop, fault):
    """Sessions of one daemon with each kind. After the first one the fault begins."""
    sick = set()

    def enough(seen):
        for name, server in seen.servers.items():
            if name not in sick and seen.last.count_of("vllm_probe_sessions_total", name) >= 1:
                sick.add(name)
                fault(server.engine)  # it runs in the loop of the servers
        return all(
            seen.last.count_of("vllm_probe_sessions_total", name) >= SESSIONS for name in KINDS
        )

    return watch(loop, KINDS, enough, **QUIET)


@pytest.fixture(scope="module")
def crowded(loop):
    return played(loop, crowd)


@pytest.fixture(scope="module")
def emptied(loop):
    return played(loop, every(5, lambda engine: engine.reset_prefix_cache()))


@pytest.fixture(scope="module")
def restarted(loop):
    return played(loop, every(21, lambda engine: engine.restart()))


def sessions_of(seen, name):
    return sorted(
        (each for each in seen.sessions if each["target"] == name), key=lambda s: s["started"]
    )


def losses_of(sessions):
    return [turn["loss"] for each in sessions for turn in each["turns"] if turn["loss"]]


def check_rule(sessions, name):
    """The rule of each session is that of the healthy engine, and its part is beside the loss.

    A part may still be open in a session whose hits others cut short.
    """
    for session in sessions:
        right = asdict(RIGHT[name].rule)
        assert {k: v for k, v in session["reuse_rule"].items() if v not in (None, right[k])} == {}
        parts = {part["cause"] for turn in session["turns"] for part in turn["rule_losses"]}
        assert parts <= RIGHT[name].gives_up
    parts = [part for s in sessions for turn in s["turns"] for part in turn["rule_losses"]]
    assert parts


@each_kind
def test_evicted_blocks_are_a_loss_beside_the_rule(crowded, name):
    first, *later = sessions_of(crowded, name)
    assert losses_of([first]) == []
    assert {loss["cause"] for loss in losses_of(later)} == {"evicted"}
    check_rule(later, name)


@each_kind
def test_an_emptied_cache_is_a_loss_beside_the_rule(emptied, name):
    _, *later = sessions_of(emptied, name)
    assert {loss["cause"] for loss in losses_of(later)} == {"reset"}
    check_rule(later, name)


@each_kind
def test_a_restart_is_a_loss_and_the_rule_is_found_again(restarted, name):
    _, *later = sessions_of(restarted, name)
    assert {loss["cause"] for loss in losses_of(later)} == {"restart"}
    right = asdict(RIGHT[name].rule)
    for session in later:
        known = session["reuse_rule"] or {}
        assert all(value in (None, right[part]) for part, value in known.items())
    assert right in [session["reuse_rule"] for session in later]
