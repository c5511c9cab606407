"""Every benchmark runs; what it measures here is of no interest."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench import BEGIN, END, HERE, PARTS, SMALL

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.xdist_group("bench"),  # the parts are measured once for all tests
]


def bench(*arguments):
    command = [sys.executable, str(HERE / "bench.py"), "--small", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All parts at their smallest, into a baseline and a page."""
    folder = tmp_path_factory.mktemp("bench")
    page, baseline = folder / "page.md", folder / "baseline.json"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n", "utf-8")
    done = bench("--baseline", baseline, "--write-baseline", "--markdown", page)
    assert done.returncode == 0, done.stderr
    return done.stdout, page.read_text("utf-8"), baseline


def test_every_kind_of_measurement_runs_and_gives_figures(whole):
    table, _, baseline = whole
    figures = json.loads(baseline.read_text("utf-8"))["figures"]
    keys = {each["key"].rsplit("_", 1)[0] for each in figures}
    assert {"start", "ttft", "read", "cpu", "one_p99", "rss", "lag_p99", "history"} <= keys
    for each in figures:
        assert each["title"] in table
        assert each["values"]


def test_the_page_gets_the_table_and_keeps_the_rest(whole):
    _, page, _ = whole
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "| start to the first /metrics |" in page


def test_a_figure_that_grew_is_marked_and_fails_when_asked(whole):
    _, _, baseline = whole
    known = json.loads(baseline.read_text("utf-8"))
    for each in known["figures"]:
        each["values"] = [value / 1000 for value in each["values"]]
    better = baseline.with_name("better.json")
    better.write_text(json.dumps(known), "utf-8")
    # One value for each figure, so that no spread of a busy machine can be as wide as the change.
    looked = bench("--only", "cost", "--baseline", better)
    assert looked.returncode == 0
    assert looked.stdout.count("WORSE") == 3
    assert bench("--only", "cost", "--baseline", better, "--fail").returncode == 1


def test_an_unknown_part_is_reported():
    done = bench("--only", "exposition,nothing")
    assert done.returncode == 1
    assert "'nothing'" in done.stderr


def test_the_small_parts_are_those_of_a_whole_run():
    assert set(SMALL) <= set(PARTS)
