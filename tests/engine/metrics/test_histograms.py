"""How long blocks stay in the KV cache, from the engine's own histograms, over its restarts."""

from __future__ import annotations

import re

import hypothesis.strategies as st
import pytest
from engine_pages import read, recorded
from hypothesis import given

from exporter.engine.metrics.exposition import parse
from exporter.engine.metrics.histograms import CarriedHistogram
from exporter.engine.metrics.histories import Histories, carry_page
from exporter.metrics.state.latency import TTFT_BOUNDS
from exporter.model.engine import Histogram

NAME = "vllm:kv_block_lifetime_seconds"
PAGE = 'process_start_time_seconds {start}\nvllm:prompt_tokens_total{{engine="0"}} {prompts}\n'


def lines(counts, total, *, engine="0", bounds=("1.0", "10.0", "+Inf"), name=NAME):
    labels = f'engine="{engine}",model_name="m"'
    buckets = [
        f'{name}_bucket{{{labels},le="{bound}"}} {count}'
        for bound, count in zip(bounds, counts, strict=True)
    ]
    return "\n".join(
        [*buckets, f"{name}_count{{{labels}}} {counts[-1]}", f"{name}_sum{{{labels}}} {total}", ""]
    )


def snapshot(text, *, start=1000.0, prompts=10.0, at=0.0):
    return parse(PAGE.format(start=start, prompts=prompts) + text, at=at, scrape_seconds=0.1)


def carried(*snapshots):
    histories = Histories()
    for each in snapshots:
        histories = carry_page(histories, each)
    return histories.histograms()


def test_the_histograms_of_a_page_are_read():
    page = "".join(
        lines((1, 2, 3), 12.5, name=f"vllm:kv_block_{name}_seconds")
        for name in ("lifetime", "idle_before_evict", "reuse_gap")
    )
    found = snapshot(page).histograms
    assert found == dict.fromkeys(
        ("lifetime", "idle_before_evict", "reuse_gap"),
        Histogram((1.0, 10.0), (1.0, 2.0, 3.0), 12.5),
    )


def test_the_page_of_a_real_engine_is_read():
    """Of vLLM 0.32.0 with --kv-cache-metrics --kv-cache-metrics-sample 1.0 and 64 blocks."""
    found = read(recorded("kv_block_residency")).histograms
    lifetime, idle, gap = (found[key] for key in ("lifetime", "idle_before_evict", "reuse_gap"))
    assert (lifetime.counts[-1], idle.counts[-1], gap.counts[-1]) == (275.0, 275.0, 214.0)
    assert lifetime.sum == pytest.approx(521.1656, abs=1e-3)
    assert lifetime.bounds[:2] == (0.001, 0.002)
    assert lifetime.bounds[-1] == 1800.0
    assert dict(zip(lifetime.bounds, lifetime.counts, strict=False))[2.0] == 200.0


def test_the_times_to_first_token_of_a_real_engine_are_read():
    """Of vLLM 0.32.0. Each bound that the settings of the rules allow is one of its buckets."""
    page = recorded("main32_after")
    found = read(page).histograms["ttft"]
    (count,) = re.findall(rb"\nvllm:time_to_first_token_seconds_count\{[^}]*\} ([0-9.]+)", page)
    (total,) = re.findall(rb"\nvllm:time_to_first_token_seconds_sum\{[^}]*\} ([0-9.e+-]+)", page)
    assert found.counts[-1] == float(count) > 0
    assert found.sum == float(total)
    assert set(TTFT_BOUNDS) <= set(found.bounds)


@pytest.mark.parametrize("after", [" 1700000000000", '  # {trace="x"} 0.5', "\t"])
def test_a_bucket_with_more_on_its_line_is_read_like_any_other(after):
    """Lines without more are read without the parser."""
    page = lines((1, 2, 3), 12.5)
    longer = re.sub(r"(_bucket\{.*\} \d)$", rf"\1{after}", page, flags=re.MULTILINE)
    assert longer != page
    assert snapshot(longer).histograms == snapshot(page).histograms != {}


def test_ranks_are_added_up():
    page = 'vllm:prompt_tokens_total{engine="1"} 3\n'
    page += lines((1, 2, 3), 12.5) + lines((0, 5, 5), 20.0, engine="1")
    assert snapshot(page).histograms["lifetime"] == Histogram((1.0, 10.0), (1.0, 7.0, 8.0), 32.5)


@pytest.mark.parametrize(
    "page",
    [
        "",
        lines((1, 2, 3), 12.5).rpartition(f"{NAME}_sum")[0],
        lines((1, 2), 12.5, bounds=("1.0", "10.0")),  # no bucket of all
        lines((3, 2, 3), 12.5),
        lines((1, 2, "NaN"), 12.5),
        lines((1, 2, 3), "NaN"),
        lines((-1, 2, 3), 12.5),
        lines((1, 2, 3), 12.5, bounds=("1.0", "x", "+Inf")),
        lines((1, 2, 3), 12.5) * 2,
        lines((1,) * 102, 1.0, bounds=(*(f"{n}.0" for n in range(101)), "+Inf")),
        'vllm:prompt_tokens_total{engine="1"} 3\n' + lines((1, 2, 3), 12.5),  # of one rank only
    ],
)
def test_what_is_not_whole_is_unknown(page):
    assert snapshot(page).histograms == {}


def test_a_restart_lowers_no_count():
    before = snapshot(lines((1, 2, 3), 12.5))
    after = snapshot(lines((0, 1, 1), 4.0), start=2000.0, prompts=1.0, at=10.0)
    later = snapshot(lines((0, 1, 2), 24.0), start=2000.0, prompts=2.0, at=20.0)
    assert carried(before)["lifetime"] == Histogram((1.0, 10.0), (1.0, 2.0, 3.0), 12.5)
    assert carried(before, after)["lifetime"] == Histogram((1.0, 10.0), (1.0, 3.0, 4.0), 16.5)
    assert carried(before, after, later)["lifetime"].counts == (1.0, 3.0, 5.0)


def test_a_page_without_them_shows_none_and_loses_none():
    first, bare = snapshot(lines((1, 2, 3), 12.5)), snapshot("", at=10.0)
    restarted = snapshot("", start=2000.0, prompts=1.0, at=10.0)
    again = snapshot(lines((1, 3, 4), 13.5), at=20.0)
    assert carried(first, restarted) == {}
    assert carried(first, bare, again)["lifetime"].counts == (1.0, 3.0, 4.0)


def test_other_bounds_begin_a_new_total():
    first = snapshot(lines((1, 2, 3), 12.5))
    other = snapshot(lines((1, 1), 2.0, bounds=("5.0", "+Inf")), start=2000.0, prompts=1, at=10.0)
    assert carried(first, other)["lifetime"] == Histogram((5.0,), (1.0, 1.0), 2.0)


def test_a_routers_page_has_none():
    page = lines((1, 2, 3), 12.5).replace('engine="0"', 'engine="0",pod="a"')
    page += 'vllm:prompt_tokens_total{engine="0",pod="a"} 3\n'
    shown = parse(page, at=0.0, scrape_seconds=0.1)
    assert shown.parts
    assert carried(shown) == {}


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_total_is_the_sum_of_all_processes(processes):
    """Each process begins at 0 and counts some observations."""
    total = None
    for per_bucket in processes:
        counts = [float(sum(per_bucket[: end + 1])) for end in range(3)]
        now = Histogram((1.0, 10.0), tuple(counts), counts[-1])
        total = CarriedHistogram(now, now) if total is None else total.after(now, from_zero=True)
    assert total.total.counts[-1] == sum(map(sum, processes))
    assert total.total.sum == sum(map(sum, processes))
    assert list(total.total.counts) == sorted(total.total.counts)


@pytest.mark.parametrize("place", ["a bound", "a count", "the sum"])
def test_a_number_that_is_none_or_beyond_all_floats_leaves_the_histogram_out(place):
    huge = "9" * 400
    page = {
        "a bound": lines((1, 2, 3), 12.5, bounds=("1.0", "nonsense", "+Inf")),
        "a count": lines((1, 2, huge), 12.5),
        "the sum": lines((1, 2, 3), huge),
    }[place]
    assert snapshot(page).histograms == {}
