"""The table of turns, in different widths, with and without colour."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from publish_records import EAGLE_TURNS, TURNS, session, turn
from rich.console import Console

from exporter.model.session import Control, ControlOutcome
from exporter.report.session.table import mark, turn_table
from exporter.report.session.text import session_report
from exporter.wording import numbers

COLD = Control(ControlOutcome.COLD, True, 1250, 32, 0.8125)
LONG = [
    replace(turn(n, 123_456, 123_000, 123_296, completion=32_000, ttft=12.5), control=COLD)
    for n in range(2, 13)
]


OPEN_RULE = replace(turn(2, 1000, 500, 500), ideal_cached_tokens=1000,
                    attainable_cached_tokens=None, efficiency_ratio=None)  # fmt: skip


def drawn(turns, width=80, *, cold=False, colour=False) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
    )
    console.print(turn_table(turns, width=width, ascii_only=False, cold=cold))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 149, 150, 160])
@pytest.mark.parametrize("cold", [False, True])
def test_each_turn_is_one_line_that_fits(width, cold):
    lines = drawn([TURNS[0], *LONG], width, cold=cold).splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
    starts = [line.split()[0] for line in lines if line.strip()[:1].isdigit()]
    assert starts == [str(n) for n in range(1, 13)]


def test_a_narrow_terminal_cuts_no_number():
    page = drawn(LONG[:1], 40, cold=True)
    assert "…" not in page
    shown = re.findall(r"\d[\d,.]*", page)
    assert set(shown) < set(re.findall(r"\d[\d,.]*", drawn(LONG[:1], 160, cold=True)))
    assert {"123,000", "99.6", "12"} <= set(shown)


@pytest.mark.parametrize("turns", [LONG, TURNS, EAGLE_TURNS, [OPEN_RULE]])
@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("width", [60, 70, 80])
def test_from_60_columns_on_no_word_is_broken_and_each_turn_is_one_line(turns, cold, width):
    lines = [line.rstrip() for line in drawn(turns, width, cold=cold).splitlines()]
    assert all(len(line) <= width for line in lines)
    words = {
        *("turn", "prompt", "compl.", "cached", "hit", "ratio", "ideal", "attain.", "eff."),
        *("TTFT", "cold", "latency", "cache"),
    }
    rule = next(n for n, line in enumerate(lines) if "──" in line)
    assert {word for line in lines[:rule] for word in line.split()} <= words
    assert rule <= 2
    starts = [line.split()[0] for line in lines if line.strip()[:1].isdigit()]
    assert starts == [str(one.index) for one in turns]


def test_what_a_narrow_terminal_leaves_out_says_least_about_the_cache():
    def header(width: int) -> list[str]:
        return drawn(EAGLE_TURNS, width, cold=True).splitlines()[1].split()

    assert {"ideal", "latency"} & set(header(60)) == set()
    assert {"cached", "ratio", "eff.", "TTFT", "cache"} <= set(header(60))
    assert {"ideal", "latency", "attain."} <= set(header(80))


def test_the_line_of_a_turn_has_all_its_numbers():
    (line,) = [row for row in drawn([replace(TURNS[2], control=COLD)], cold=True).splitlines()
               if row.strip().startswith("3")]  # fmt: skip
    assert line.split() == [
        *("3", "1,500", "32", "1,024", "68.3", "%", "1,280", "80.0", "%"),
        *("125", "ms", "812", "ms", "1.50", "s", "part"),
    ]


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [(999_999, "999,999"), (1_000_000, "1.00M"), (9_990_000, "9.99M"), (12_345_678, "12.3M")],
)
def test_sums_wider_than_their_turns_are_written_in_millions(prompt, shown):
    turns = [turn(1, prompt, 0, 0)]
    assert drawn(turns).rstrip().splitlines()[-1].split()[1] == shown
    assert drawn(turns, 160).rstrip().splitlines()[-1].split()[1] == f"{prompt:,}"


@pytest.mark.parametrize("width", [80, 120, 138, 168])
@pytest.mark.parametrize("cold", [False, True])
def test_each_turn_of_an_engine_with_a_rule_is_one_line_that_fits(width, cold):
    long = [
        replace(turn(n, 123_456, 122_768, 123_296, gives_up=528, ttft=12.5), control=COLD)
        for n in range(2, 13)
    ]
    lines = drawn([TURNS[0], *long], width, cold=cold).splitlines()
    assert all(len(line) <= width for line in lines)
    starts = [line.split()[0] for line in lines if line.strip()[:1].isdigit()]
    assert starts == [str(n) for n in range(1, 13)]
    assert all("122,768" in line and "full" in line for line in lines if "123,296" in line)


def test_attainable_has_a_column_only_if_the_rule_gives_something_up():
    last = drawn(EAGLE_TURNS).rstrip().splitlines()
    assert last[1].split()[:8] == [
        *("turn", "prompt", "compl.", "cached", "ratio", "ideal", "attain.", "eff."),
    ]
    assert last[-1].split() == [
        *("all", "3,750", "96", "2,208", "58.9", "%", "2,272", "2,208", "100", "%")
    ]
    (third,) = [line.split() for line in last if line.split()[:1] == ["3"]]
    assert {"1,280", "1,248"} <= set(third), "its ideal, and what the rule leaves of it"
    assert third.count("1,248") == 2, "cached and attainable"
    assert "attain" not in drawn(TURNS)
    assert "attainable" in drawn(EAGLE_TURNS, 140)
    assert "attainable" not in drawn(TURNS, 140)


def test_cold_ttft_has_a_column_only_with_cold():
    assert "cold\n" not in drawn(TURNS[1:])
    assert "812 ms" in drawn(LONG, cold=True)
    assert "812 ms" not in drawn(LONG)


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (turn(1, 1000, 0, 0), "cold"),
        (turn(1, 1000, 64, None), "warm"),
        (turn(2, 1000, 960, 960), "full"),
        (turn(2, 1000, 959, 960), "part"),
        (turn(2, 1000, 480, 960), "part"),
        (turn(2, 1000, 479, 960), "low"),
        (turn(2, 1000, 0, 960), "MISS"),
        (turn(2, 1000, 0, 0), "none"),
        (turn(2, 1000, 928, 960, gives_up=32), "full"),
        (turn(2, 1000, 0, 960, gives_up=32), "MISS"),
        (turn(2, 1000, 0, 960, gives_up=960), "none"),
        (
            replace(turn(2, 1000, 928, 928), attainable_cached_tokens=None, efficiency_ratio=None),
            "?",
        ),
        (turn(2, 1000, 960, None), "?"),
        (turn(2, 1000, None, 960), "?"),
        (turn(1, None, None, None), "?"),
    ],
)
def test_the_mark_of_a_turn_is_a_word_and_a_colour(facts, word):
    assert mark(facts).word == word
    assert word in drawn([facts])


@pytest.mark.parametrize(
    ("ideal", "word"),
    [(1792, "full"), (1568, "full"), (1552, "low ideal"), (1024, "low ideal"), (0, "low ideal")],
)
def test_a_turn_with_a_low_ideal_is_not_called_full(ideal, word):
    before, after = turn(1, 2071, 0, 0), turn(2, 2213, ideal, ideal)
    assert mark(after, before).word == word
    assert word in drawn([before, after])
    assert "full" not in drawn([before, after]) or word == "full"


def test_a_turn_that_is_mostly_new_is_full_although_its_hit_ratio_is_below_a_half():
    before, after = turn(1, 2071, 0, 0), turn(2, 6400, 2064, 2064)
    assert mark(after, before).word == "full"


def test_without_the_prompt_before_an_ideal_is_not_called_low():
    assert mark(turn(2, 2213, 32, 32), turn(1, None, None, None)).word == "full"
    assert mark(turn(2, 2213, 0, 0)).word == "none"


def test_a_loss_is_marked_even_with_a_low_ideal():
    assert mark(turn(2, 2213, 0, 32), turn(1, 2071, 0, 0)).word == "MISS"


def test_without_colour_the_text_is_the_same():
    turns = [TURNS[0], turn(2, 1000, 0, 960), turn(3, 1000, 960, 960)]
    coloured = drawn(turns, colour=True)
    assert "\x1b[" in coloured
    plain = drawn(turns)
    assert "\x1b" not in plain
    assert "MISS" in plain
    assert "full" in plain


def test_an_unknown_value_is_a_dash_and_never_0():
    (line,) = [row for row in drawn([turn(2, None, None, None, completion=None, ttft=None)])
               .splitlines() if row.strip().startswith("2")]  # fmt: skip
    assert line.split() == ["2", *[numbers.UNKNOWN] * 7, "1.50", "s", "?"]


def test_the_last_line_has_the_sums():
    last = drawn(TURNS).rstrip().splitlines()[-1]
    assert last.split() == ["all", "3,750", "96", "2,016", "53.8", "%", "2,272", "88.7", "%"]


@pytest.mark.parametrize(
    ("facts", "bar"),
    [
        (turn(2, 1000, 1000, 1000), "█" * 24),
        (turn(2, 1000, 999, 999), "█" * 23 + "·"),
        (turn(2, 1000, 500, 1000), "█" * 12 + "▒" * 12),
        (turn(2, 1000, 0, 1), "▒" + "·" * 23),
        (turn(1, 1000, 0, 0), "·" * 24),
        (turn(2, 1000, 500, 750, gives_up=250), "█" * 12 + "░" * 6 + "·" * 6),
        (turn(2, 1000, 500, 1000, gives_up=250), "█" * 12 + "▒" * 6 + "░" * 6),
        (turn(2, 1000, 990, 999, gives_up=9), "█" * 23 + "░"),
        (OPEN_RULE, "█" * 12 + "?" * 12),
    ],
)
def test_on_a_wide_terminal_a_bar_is_full_only_if_all_was_served(facts, bar):
    assert bar in drawn([facts], 168)
    assert bar not in drawn([facts], 80)


def report(result, *, cold=False, interrupted=False) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(
        session_report(result, "http://gpu:8000", console, cold=cold, interrupted=interrupted)
    )
    return console.file.getvalue()


def test_the_report_begins_with_the_scenario_and_ends_with_the_verdict():
    page = report(session(*TURNS[:2]))
    assert page.startswith("coding-agent against tiny at http://gpu:8000\n")
    assert "vLLM 0.32.0, 2026-01-01 00:00:00 UTC" in page
    assert page.rstrip().endswith("Nothing to change.")
    assert "SIMULATED" not in page


def test_a_simulated_engine_is_named_above_the_table_and_in_the_verdict():
    page = report(session(*TURNS, simulated=True))
    above, below = page.split("turn prompt")
    assert "SIMULATED" in above
    assert "SIMULATED" in below


STORED = [replace(TURNS[0], external_cached_tokens=0)] + [
    replace(one, external_cached_tokens=256) for one in (*EAGLE_TURNS[1:], *LONG)
]


def test_the_part_of_a_store_has_a_column_only_where_a_store_served_something():
    nothing = [replace(one, external_cached_tokens=0) for one in TURNS]
    assert "external" not in drawn(TURNS, 160) + drawn(nothing, 160)
    page = drawn(STORED[:3], 160)
    assert "external" in page
    assert page.splitlines()[-1].split().count("512") == 1, "the sum of two turns"


@pytest.mark.parametrize("width", [80, 100, 120, 149, 150, 160])
@pytest.mark.parametrize("cold", [False, True])
def test_the_column_of_a_store_fits_beside_the_others(width, cold):
    lines = drawn(STORED, width, cold=cold).splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
