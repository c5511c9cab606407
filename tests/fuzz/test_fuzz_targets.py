"""The targets of the fuzzer, on its seeds and on inputs that are nearly right.

`make fuzz` runs the same ones on many more; this keeps them, and what they found, from coming back.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = Path(__file__).parents[2] / "fuzz"
SEEDS = sorted(FUZZ.glob("corpus/*/*"))
NAMES = sorted({seed.parent.name for seed in SEEDS})


def _module(name: str):
    sys.path.insert(0, str(FUZZ))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FUZZ))


TARGETS = _module("targets").TARGETS
STRATEGIES = _module("strategies").STRATEGIES


def test_each_target_has_seeds_and_a_strategy():
    assert NAMES == sorted(TARGETS) == sorted(STRATEGIES)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed.parent.name}-{seed.name}")
def test_a_seed_is_read_as_it_should_be(seed: Path):
    TARGETS[seed.parent.name].run(seed.read_bytes())


@pytest.mark.parametrize("name", NAMES)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_what_is_nearly_right_is_read_as_it_should_be(name: str, data: st.DataObject):
    TARGETS[name].run(data.draw(STRATEGIES[name]))


@pytest.mark.parametrize("name", NAMES)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(noise=st.binary(max_size=100))
def test_noise_is_read_or_refused(name: str, noise: bytes):
    TARGETS[name].run(noise)


@pytest.mark.parametrize(
    ("name", "module", "attribute", "wrong"),
    [
        ("stream", "exporter.engine.wire.sse", "_line_end", lambda *_: None),
        ("metrics_page", "exporter.engine.metrics.snapshots", "_combined", lambda *_: 1.0),
    ],
)
def test_a_reader_that_reads_wrongly_is_found(name, module, attribute, wrong, monkeypatch):
    monkeypatch.setattr(importlib.import_module(module), attribute, wrong)
    seeds = [seed.read_bytes() for seed in SEEDS if seed.parent.name == name]
    with pytest.raises(AssertionError):
        list(map(TARGETS[name].run, seeds))
