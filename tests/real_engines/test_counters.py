"""Recorded pages and streams of vLLM, read without the exporter's own parser."""

from __future__ import annotations

from pathlib import Path

import pytest

from real_engines.counters import engine_page, exporter_counters
from real_engines.wire import cached_of

DATA = Path(__file__).parents[1] / "engine" / "data"


def page(name):
    return engine_page((DATA / name).read_text("utf-8"))


@pytest.mark.parametrize(
    ("file", "queried", "hit", "prompt"),
    [
        ("versions/0.8.5/metrics.txt", None, None, 107284.0),
        ("metrics_0_8_5_v1.txt", 258 * 16, 129 * 16, None),  # it counts blocks
        ("versions/0.9.1/metrics.txt", 141442.0, 104544.0, 141442.0),
        ("versions/0.10.2/metrics.txt", 126548.0, 89696.0, 126548.0),
        ("versions/0.31.0/metrics.txt", 167261.0, 124704.0, 167261.0),
    ],
)
def test_each_version_has_its_counters_in_tokens(file, queried, hit, prompt):
    counters = page(file).counters
    assert (counters["queried_tokens"], counters["hit_tokens"]) == (queried, hit)
    assert (counters["prompt_tokens"] or None) == prompt


def test_the_counters_of_all_ranks_are_added_up():
    text = "# TYPE vllm:prompt_tokens counter\n" + "".join(
        f'vllm:prompt_tokens_total{{engine="{rank}"}} {count}\n' for rank, count in ((0, 5), (1, 7))
    )
    assert engine_page(text).counters["prompt_tokens"] == 12


def test_a_counter_that_the_exporter_does_not_publish_is_unknown():
    text = "# TYPE vllm_engine_prompt_tokens_total counter\n"
    text += 'vllm_engine_prompt_tokens_total{target="engine"} 7\n'
    found = exporter_counters(text)
    assert found["prompt_tokens"] == 7
    assert found["hit_tokens"] is None


@pytest.mark.parametrize(
    ("version", "new", "repeated"),
    [("0.8.5", None, None), ("0.23.0", None, 256), ("0.24.0", 0, 256), ("0.32.0", 0, 256)],
)
def test_the_cached_tokens_of_a_stream_are_those_in_its_usage(version, new, repeated):
    folder = DATA / "versions" / version
    assert cached_of((folder / "chat.sse").read_text("utf-8")) == new
    assert cached_of((folder / "chat_repeat.sse").read_text("utf-8")) == repeated
