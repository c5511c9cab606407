"""The table of names against the pages of vLLM 0.32.0 and the rules that the table states."""

from __future__ import annotations

from dataclasses import fields

import pytest
from engine_pages import recorded

from exporter.engine.metrics import names
from exporter.model.engine import EngineSnapshot


def test_no_name_is_wanted_twice():
    every = [n for family in (*names.VLLM_FAMILIES, names.PROCESS_START) for n in family.names]
    assert len(every) == len(set(every))
    labelled = {names.PROMPT_TOKENS_BY_SOURCE, names.CACHED_BY_SOURCE}
    labelled |= {names.CACHE_CONFIG, names.SLEEP_STATE, names.SPECULATION, names.DRAFTED}
    assert set(every) | labelled | names.HISTOGRAM_SAMPLES == names.WANTED_NAMES


@pytest.mark.parametrize(
    "family", [f for f in names.VLLM_FAMILIES if f is not names.HIT_RATE], ids=lambda f: f.names[0]
)
def test_the_newest_name_of_each_family_is_on_a_page_of_vllm_0_32(family: names.Family):
    assert f"\n{family.names[0]}{{".encode() in recorded("main32_after")


def test_the_hit_rate_gauge_left_vllm_with_its_v0_engine():
    assert b"hit_rate" not in recorded("main32_after")


def test_every_number_of_a_snapshot_has_a_family():
    numbers = [f.name for f in fields(EngineSnapshot) if f.type == "float | None"]
    others = ("process_start_time", "local_cached_tokens")  # the latter is one `source` of several
    assert len(numbers) == len(names.VLLM_FAMILIES) + len(others)
