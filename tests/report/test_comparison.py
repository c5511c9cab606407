"""A comparison of sessions: its numbers, its table, its JSON and its chart."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from comparison_records import LENGTHS, played, with_controls
from hypothesis import given
from hypothesis import strategies as st
from publish_records import EAGLE, failed_session, turn
from rich.console import Console

from exporter.model.session import Notice
from exporter.report.comparison.chart import draw
from exporter.report.comparison.facts import cold_sides, compare, side_of
from exporter.report.comparison.json import comparison_json
from exporter.report.comparison.table import comparison_report

SIX = range(6)


def two(first, other, **options):
    sides = (side_of("A", "http://a", first), side_of("B", "http://b", other))
    return compare(sides, **({"interleaved": True} | options))


def said(comparison, *, width=80, **options) -> str:
    page = io.StringIO()
    Console(file=page, width=width).print(
        comparison_report(comparison, **({"interrupted": False} | options))
    )
    return page.getvalue()


def flat(text: str) -> str:
    return " ".join(text.split())


def chart_texts(comparison) -> list[str]:
    root = ET.fromstring(draw(comparison, "svg"))  # noqa: S314 - our own
    found = root.iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()) for element in found]


def test_the_difference_is_how_much_slower_an_engine_is():
    comparison = two([played(n) for n in SIX], [played(n, extra=0.03) for n in SIX])
    found = comparison.contrasts[0].differences["ttft"]
    assert found.estimate == pytest.approx(0.03)
    assert found.pairs == 6
    assert found.p == 0.03125
    assert comparison.contrasts[0].differences["latency"].estimate == pytest.approx(0.03)
    assert comparison.contrasts[0].differences["hit_ratio"].estimate == 0
    assert "comes 30 ms later than that of A in 6 pairs of sessions: more than chance" in flat(
        said(comparison)
    )


def test_only_differences_within_a_round_count():
    """The machine slows down by 20 ms from round to round; within a round the two are 1 ms apart."""
    first = [played(n, extra=0.02 * n) for n in SIX]
    other = [played(n, extra=0.02 * n + 0.001) for n in SIX]
    found = two(first, other).contrasts[0].differences["ttft"]
    assert found.estimate == pytest.approx(0.001)
    assert found.high - found.low < 1e-9


@given(st.permutations(range(6)))
def test_the_order_of_the_rounds_does_not_matter(order):
    first, other = [played(n) for n in SIX], [played(n, extra=0.001 * n) for n in SIX]
    mixed = two([first[n] for n in order], [other[n] for n in order])
    assert mixed.contrasts == two(first, other).contrasts or (
        mixed.contrasts[0].differences == two(first, other).contrasts[0].differences
    )


def test_fewer_than_six_pairs_are_called_too_few():
    comparison = two([played(n) for n in range(3)], [played(n, extra=0.03) for n in range(3)])
    assert comparison.contrasts[0].differences["ttft"].p is None
    text = flat(said(comparison))
    assert "too few to show whether that is more than chance" in text
    assert (
        "3 pairs of sessions cannot show a difference at the 5 % level: at least 6 are needed"
        in text
    )


def test_the_penalty_of_a_miss_is_measured_if_one_side_never_hits():
    comparison = two([played(n) for n in SIX], [played(n, caching=False) for n in SIX])
    missed = comparison.contrasts[0].miss_seconds
    assert missed.estimate == pytest.approx(0.0002 * 1232)
    penalty = comparison.sides[0].penalty
    assert penalty.tokens == 1232
    assert penalty.seconds == pytest.approx(0.0002 * 1232, rel=0.02)
    assert comparison.sides[1].penalty is None  # nothing hit: there is no miss to pay for
    text = flat(said(comparison))
    assert "Penalty of a miss, measured: +246 ms to the first token" in text
    assert "0.246 prefill seconds" in text
    assert "200 µs per token" in text


def test_an_interval_can_begin_below_zero():
    extras = (-0.26, -0.25, 0.0, 0.01, 0.02, 0.03)
    other = [played(n, caching=False, extra=extra) for n, extra in enumerate(extras)]
    missed = two([played(n) for n in SIX], other).contrasts[0].miss_seconds
    assert missed.low < 0 < missed.high
    assert "(95 % interval -13.6 ms to +276 ms)" in flat(said(two([played(n) for n in SIX], other)))


def test_the_penalty_has_the_same_sign_for_either_side():
    turned = two([played(n, caching=False) for n in SIX], [played(n) for n in SIX])
    missed = turned.contrasts[0].miss_seconds
    assert missed.estimate == pytest.approx(0.0002 * 1232)
    assert missed.low <= missed.estimate <= missed.high


def test_cached_against_cold_pairs_each_turn_with_its_control():
    sides = cold_sides("http://a", [with_controls(played(n)) for n in SIX])
    comparison = compare(sides, interleaved=True, cold=True)
    assert [side.name for side in comparison.sides] == ["cached", "cold"]
    assert set(comparison.contrasts[0].differences) == {"ttft"}
    assert comparison.contrasts[0].differences["ttft"].estimate == pytest.approx(
        0.0002 * 1232, abs=1e-3
    )
    assert comparison.sides[0].penalty.cost.points == 6 * (4 + 3)


def test_cold_controls_of_turns_without_a_hit_save_no_time():
    sessions = [with_controls(played(n, caching=False), extra=0.01 * n) for n in SIX]
    sides = cold_sides("http://a", sessions)
    comparison = compare(sides, interleaved=True, cold=True)
    text = flat(said(comparison))
    assert "The cache served nothing" in text
    assert "no time was saved" in text
    assert "The first token of cold comes" not in text


def test_a_difference_within_chance_is_called_not_measurable_with_its_interval():
    extras = (0.03, -0.01, 0.02, 0.01, -0.02, 0.03)
    comparison = two([played(n) for n in SIX], [played(n, extra=extras[n]) for n in SIX])
    text = flat(said(comparison))
    assert ": no measurable difference, 95 % interval -20 ms to +30 ms." in text
    assert any("no measurable difference" in text for text in chart_texts(comparison))


def test_a_difference_beyond_chance_has_its_interval():
    text = flat(said(two([played(n) for n in SIX], [played(n, extra=0.03) for n in SIX])))
    assert "more than chance (p = 0.031), 95 % interval +30 ms to +30 ms." in text


def test_turns_without_a_cold_control_are_on_neither_side():
    sides = cold_sides("http://a", [played(n) for n in SIX])
    comparison = compare(sides, interleaved=True, cold=True)
    assert "ttft" not in comparison.contrasts[0].differences
    assert "Whether cold is faster than cached is unknown" in flat(said(comparison))


def test_a_failed_session_takes_its_round_out_and_is_named():
    other = [played(n, extra=0.03) for n in SIX]
    other[2] = failed_session()
    comparison = two([played(n) for n in SIX], other)
    assert not comparison.whole
    assert comparison.contrasts[0].differences["ttft"].pairs == 5
    assert "http://b: a session failed in turn 1: connection refused" in flat(said(comparison))
    assert "1 sessions failed and are left out" in chart_texts(comparison)


def test_an_unknown_value_is_absent_and_not_zero():
    comparison = two([played(n, known=False) for n in SIX], [played(n) for n in SIX])
    assert "hit_ratio" not in comparison.contrasts[0].differences
    assert "hit_ratio" not in comparison.sides[0].spreads
    assert comparison.contrasts[0].miss_seconds is None
    told = comparison_json(comparison, interrupted=False)
    assert told["sides"][0]["penalty_of_a_miss"] is None
    assert "hit_ratio" not in told["contrasts"][0]["differences"]
    assert "unknown: A" in chart_texts(comparison)


def test_a_note_says_if_the_sides_were_not_played_in_turn():
    sessions = [played(n) for n in SIX]
    assert "not played in turn" in flat(said(two(sessions, sessions, interleaved=False)))
    assert "not played in turn" not in flat(said(two(sessions, sessions)))


def test_a_note_says_if_the_prompts_differ_in_length():
    longer = [
        replace(
            played(n),
            turns=tuple(
                replace(each, prompt_tokens=each.prompt_tokens + 500) for each in played(n).turns
            ),
        )
        for n in SIX
    ]
    text = flat(said(two([played(n) for n in SIX], longer)))
    assert "1,000 tokens on A and 1,500 tokens on B" in text


def test_notices_of_a_session_name_their_engine():
    notices = frozenset({Notice.USAGE_DETAILS_MISSING, Notice.SIMULATED})
    text = flat(said(two([played(n, notices=notices) for n in SIX], [played(n) for n in SIX])))
    assert "http://a: The server does not report cached tokens" in text


def test_three_engines_are_compared_with_the_first_and_corrected_for_their_number():
    sides = [
        side_of(name, f"http://{name}", [played(n, extra=extra) for n in SIX])
        for name, extra in (("A", 0.0), ("B", 0.03), ("C", -0.01))
    ]
    comparison = compare(sides, interleaved=True)
    assert [each.name for each in comparison.contrasts] == ["B", "C"]
    assert [each.adjusted_p["ttft"] for each in comparison.contrasts] == [0.0625, 0.0625]
    text = flat(said(comparison))
    assert "which may be chance (p = 0.062, corrected for the number of engines)" in text
    assert "10 ms sooner" in text


def test_the_table_fits_eighty_columns():
    comparison = two([played(n) for n in SIX], [played(n, caching=False) for n in SIX])
    for line in said(comparison).splitlines():
        assert len(line) <= 80
    assert "…" in said(comparison)


def test_the_json_has_every_reading():
    comparison = two([played(n) for n in SIX], [played(n, extra=0.03) for n in SIX])
    told = json.loads(json.dumps(comparison_json(comparison, interrupted=True)))
    assert told["interrupted"] is True
    assert [len(side["sessions"]) for side in told["sides"]] == [6, 6]
    assert len(told["sides"][0]["sessions"][0]) == len(LENGTHS)
    assert told["contrasts"][0]["differences"]["ttft"]["p"] == 0.03125
    assert told["contrasts"][0]["minus"] == "A"


def with_eagle(one):
    """The session on an engine that drops the last 16 tokens of each hit."""
    return replace(
        one,
        reuse_rule=replace(EAGLE, unit_tokens=16),
        turns=tuple(
            each
            if each.index == 1
            else turn(
                each.index,
                each.prompt_tokens,
                each.cached_tokens - 16,
                each.ideal_cached_tokens,
                gives_up=16,
                ttft=each.ttft_seconds,
            )
            for each in one.turns
        ),
    )


def test_a_note_says_what_the_rule_of_one_engine_gives_up():
    plain, eagle = [played(n) for n in SIX], [with_eagle(played(n)) for n in SIX]
    note = (
        "By its reuse rule B gives up about 16 tokens a turn (hits are multiples of 16 tokens; the "
        "last 16 tokens of each hit are dropped, as with EAGLE or MTP). That is part of the "
        "difference in hit ratio, and no loss."
    )
    assert note in flat(said(two(plain, eagle)))
    assert "reuse rule" not in flat(said(two(eagle, eagle)))
    assert "reuse rule" not in flat(said(two(plain, plain)))


def test_the_json_has_the_rule_of_each_side_and_what_it_gives_up():
    comparison = two([played(n) for n in SIX], [with_eagle(played(n)) for n in SIX])
    told = json.loads(json.dumps(comparison_json(comparison, interrupted=False)))
    plain, eagle = told["sides"]
    assert plain["reuse_rule"] is None
    assert eagle["reuse_rule"]["dropped_blocks"] == 1
    later = eagle["sessions"][0][1]
    assert (later["cached_tokens"], later["attainable_cached_tokens"]) == (976, 976)
    assert later["rule_losses"] == [{"tokens": 16, "cause": "speculative_decoding"}]
    assert plain["sessions"][0][1]["rule_losses"] == []


def test_the_chart_names_sides_distributions_and_the_difference():
    comparison = two([played(n) for n in SIX], [played(n, extra=0.03) for n in SIX])
    texts = chart_texts(comparison)
    for text in (
        *("A against B on tiny · vLLM 0.32.0", "A (tiny 0.32.0)", "B (tiny 0.32.0)"),
        *("Distribution of TTFT in turns 2 and later (ECDF)", "+30 ms", "6 pairs, p = 0.031"),
        "coding-agent · 6 sessions each · 2026-01-01 00:00:00 UTC",
    ):
        assert text in texts, text
    assert not [text for text in texts if "SIMULATED" in text]


def test_the_chart_of_a_simulated_side_says_so():
    comparison = two([played(n, simulated=True) for n in SIX], [played(n) for n in SIX])
    assert "SIMULATED" in chart_texts(comparison)
    assert "SIMULATED" in said(comparison)
