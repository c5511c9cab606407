"""What the soak calls flat, and what it calls grown."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

_FILE = Path(__file__).parents[2] / "soak" / "flatness.py"
_spec = importlib.util.spec_from_file_location("soak_flatness", _FILE)
assert _spec is not None
assert _spec.loader is not None
flatness = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = flatness
_spec.loader.exec_module(flatness)

MEMORY = flatness.Bound("memory", "MiB", 4.0)
SESSIONS = 100_000


def run(value, readings: int = 200) -> list[tuple[int, float]]:
    """`value` of each number of sessions, at even distances."""
    return [(done, value(done)) for done in range(0, SESSIONS, SESSIONS // readings)]


def test_a_quantity_that_fills_while_it_warms_up_is_flat():
    verdict = flatness.judged(MEMORY, run(lambda done: min(60 + done / 500, 90)), SESSIONS)
    assert verdict.flat
    assert (verdict.first, verdict.last, verdict.growth) == (90, 90, 0)


@given(seed=st.integers(0, 1000), noise=st.floats(0, 3))
def test_a_leak_of_a_hundred_bytes_a_session_is_found_in_noise_and_with_odd_readings(seed, noise):
    chance = random.Random(seed)

    def value(done: int) -> float:
        odd = 50.0 if chance.random() < 0.1 else 0.0
        return 60 + done * 100 / 2**20 + chance.uniform(-noise, noise) + odd

    assert not flatness.judged(MEMORY, run(value), SESSIONS).flat


@given(seed=st.integers(0, 1000))
def test_odd_readings_are_no_growth(seed):
    chance = random.Random(seed)

    def value(_done: int) -> float:
        return 60 + chance.uniform(-1, 1) + (50 if chance.random() < 0.1 else 0)

    assert flatness.judged(MEMORY, run(value), SESSIONS).flat


def test_a_leak_of_one_descriptor_in_a_thousand_sessions_is_found():
    bound = flatness.Bound("descriptors", "", 10.0)
    verdict = flatness.judged(bound, run(lambda done: 30 + done // 1000), SESSIONS)
    assert not verdict.flat
    assert verdict.growth == pytest.approx(75, abs=2)


def test_what_shrinks_is_flat():
    assert flatness.judged(MEMORY, run(lambda done: 90 - done / 2000), SESSIONS).flat


def test_too_few_readings_are_not_called_flat():
    assert not flatness.judged(MEMORY, run(lambda _done: 60, readings=9), SESSIONS).flat
