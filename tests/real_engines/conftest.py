"""A record of an engine, as `python -m real_engines` keeps it."""

from __future__ import annotations

import pytest


def turn(number, cached, ideal, **more):
    ratio = None if not ideal else cached / ideal
    return {
        "turn": number,
        "prompt_tokens": 2000 + number,
        "cached_tokens": cached,
        "cached_tokens_source": "usage",
        "ideal_cached_tokens": ideal,
        "efficiency_ratio": ratio,
        "loss": None,
    } | more


@pytest.fixture
def record():
    """A plain engine of which all is known."""
    session = {
        "failure": None,
        "notices": [],
        "turns": [turn(1, 0, 0), turn(2, 2080, 2080), turn(3, 2208, 2208)],
    }
    counters = {
        "queried_tokens": {"engine": 6300.0, "exporter": 6300.0},
        "hit_tokens": {"engine": 4288.0, "exporter": 4288.0},
        "prompt_tokens": {"engine": 6300.0, "exporter": 6300.0},
        "generation_tokens": {"engine": 96.0, "exporter": 96.0},
    }
    test = {"name": "isolation", "verdict": "pass", "evidence": "a salt isolates", "remedy": None}
    return {
        "name": "one",
        "kind": "plain",
        "note": None,
        "version": "0.32.0",
        "told": {"new": 0, "repeated": 2048},
        "counters": counters,
        "sessions": [session],
        "check": {"exit_code": 0, "tests": [test]},
    }
