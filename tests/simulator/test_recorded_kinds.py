"""Each profile's cache against a recording of the real kind of engine (recorded_caches.py)."""

from __future__ import annotations

from itertools import cycle

import pytest
from recorded_caches import PLAYED, RECORDED, requests_of
from test_cache import play

from exporter.simulator.cache import PrefixCache
from exporter.simulator.engine_kinds.reuse import ReuseRule, rule_of
from exporter.simulator.engine_kinds.table import PROFILES
from exporter.simulator.faults.faults import ActiveFaults

RULES = {
    "full": ReuseRule(),
    "full, eagle": ReuseRule(drops_last=True),
    "window 64": ReuseRule(dense=False, window=64, full=False),
    "window 64, eagle": ReuseRule(dense=False, window=64, full=False, drops_last=True),
    "full and window 64": ReuseRule(dense=False, window=64),
    "full and window 64, eagle": ReuseRule(dense=False, window=64, drops_last=True),
    "full and window 64 in blocks of 32": ReuseRule(dense=False, window=64, unit=32),
    "full and linear": ReuseRule(dense=False),
    "full and linear, eagle": ReuseRule(dense=False, drops_last=True),
}
SAME = {"swa": "sliding-window", "clock-us": "clock-in-template"}
"""Real kinds whose profile has another name."""
ROOM = 20_000_000  # tokens; nothing is evicted


def cache_like(name: str, block_size: int) -> PrefixCache:
    """The cache of a profile; with the recorded block size, if the profile names none."""
    profile, active = PROFILES[name], ActiveFaults()
    for one in profile.behaviours:
        active.set(one)
    size = profile.settings.get("block_size", block_size)
    cache = PrefixCache(min(ROOM // size, 50_000), size)
    cache.rule = rule_of(active)
    return cache


def replayed(caches: list[PrefixCache], rows: list[object]) -> list[int]:
    """What the caches serve of the recorded prompts, in turn."""
    return [
        play(cache, one.prompt, one.answer, one.session)
        for one, cache in zip(requests_of(rows), cycle(caches), strict=False)
    ]


@pytest.mark.parametrize("kind", RECORDED)
def test_a_profile_serves_what_the_real_engine_served(kind):
    recorded, name = RECORDED[kind], SAME.get(kind, kind)
    ranks = PROFILES[name].settings.get("engine_ranks", 1)
    caches = [cache_like(name, recorded["block_size"]) for _ in range(ranks)]
    assert replayed(caches, recorded["rows"]) == [row[-1] for row in recorded["rows"]]


@pytest.mark.parametrize("groups", PLAYED)
def test_a_rule_serves_what_vllms_cache_manager_serves(groups):
    cache = PrefixCache(50_000, 16)
    cache.rule = RULES[groups]
    assert replayed([cache], PLAYED[groups]) == [row[-1] for row in PLAYED[groups]]


def test_the_recording_would_tell_another_rule_from_the_right_one():
    for kind, other in (("eagle", "plain"), ("gemma3", "plain"), ("gemma4", "gemma3")):
        rows = RECORDED[kind]["rows"]
        assert replayed([cache_like(other, 32)], rows) != [row[-1] for row in rows]
