"""The small charts of the page."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from publish_records import TURNS, turn

from exporter.web.page.views.charts import (
    HEIGHT,
    KEY_PATHS,
    WIDTH,
    SessionPoint,
    trend_chart,
    turn_charts,
)

tokens = st.none() | st.integers(0, 10**7)
times = st.none() | st.floats(0, 1e4)


@st.composite
def facts(draw, index: int):
    prompt = draw(tokens)
    cached = None if prompt is None else draw(st.none() | st.integers(0, prompt))
    ideal = None if cached is None else draw(st.none() | st.integers(cached, prompt))
    return turn(index, prompt, cached, ideal, ttft=draw(times))


sessions = st.sampled_from([0, 1, 2, 5, 13]).flatmap(
    lambda count: st.tuples(*(facts(index) for index in range(1, count + 1)))
)
ratios = st.none() | st.floats(0, 1)
points = st.lists(st.builds(SessionPoint, ratios, ratios, st.booleans(), ratios), max_size=20)


def heights(path: str) -> list[int]:
    """The tops and bottoms of the bars of a path."""
    return [int(number) for pair in re.findall(r" (\d+)h\d+V(\d+)", path) for number in pair]


def inside(charts):
    for chart in charts:
        assert chart.marks
        assert {key.kind for key in chart.keys} <= set(KEY_PATHS)
        for mark in chart.marks:
            for x, y in re.findall(r"[ML](-?\d+) (-?\d+)", mark.path):
                assert 0 <= int(x) <= WIDTH
                assert 0 <= int(y) <= HEIGHT
        for label in chart.labels:
            assert 0 <= label.x <= WIDTH
            assert 0 <= label.y <= HEIGHT


@settings(max_examples=40)
@given(sessions)
def test_any_turns_are_drawn_inside_the_box(turns):
    inside(turn_charts(turns))


@settings(max_examples=40)
@given(points)
def test_any_history_is_drawn_inside_the_box(history):
    chart = trend_chart(history)
    inside([chart] if chart else [])


def test_a_bar_is_split_in_proportion_to_cached_lost_and_new_tokens():
    chart, _ = turn_charts(TURNS)
    paths = {mark.kind: mark.path for mark in chart.marks}
    whole = 106 - 12  # from the ground to the largest prompt, 1500 tokens
    third = heights(paths["hit"])[-2:]
    assert third == [106, round(106 - whole * 1024 / 1500)]
    assert heights(paths["lost"]) == [third[1], round(106 - whole * 1280 / 1500)]
    assert heights(paths["new"])[-2:] == [round(106 - whole * 1280 / 1500), 12]


def test_what_the_rule_gives_up_is_a_part_of_the_bar_between_lost_and_new():
    chart, _ = turn_charts([turn(2, 1000, 500, 900, gives_up=300)])
    paths = {mark.kind: heights(mark.path) for mark in chart.marks if mark.kind != "grid"}
    whole = 106 - 12
    at = [round(106 - whole * tokens / 1000) for tokens in (0, 500, 600, 900, 1000)]
    assert [paths[kind] for kind in ("hit", "lost", "rule", "new")] == [
        [at[n], at[n + 1]] for n in range(4)
    ]
    assert "given up by the engine's rule" in {key.text for key in chart.keys}
    assert "rule" not in {mark.kind for mark in turn_charts(TURNS)[0].marks}


def test_while_the_rule_is_unknown_the_tokens_below_the_ideal_are_neither_lost_nor_new():
    open_rule = replace(turn(2, 1000, 500, 900), attainable_cached_tokens=None, loss=None)
    chart, _ = turn_charts([open_rule])
    paths = {mark.kind: heights(mark.path) for mark in chart.marks if mark.kind != "grid"}
    assert paths["unsplit"] == [59, round(106 - 94 * 0.9)]
    assert paths["new"] == [round(106 - 94 * 0.9), 12]


def test_a_trend_shows_what_was_attainable_only_where_it_is_not_the_ideal():
    plain = [SessionPoint(0.7, 0.8, failed=False, attainable_ratio=0.8)] * 2
    eagle = [SessionPoint(0.7, 0.8, failed=False, attainable_ratio=0.75)] * 2
    assert "attainable" not in {key.text for key in trend_chart(plain).keys}
    assert "attainable" in {key.text for key in trend_chart(eagle).keys}


def test_unknown_cached_tokens_are_neither_drawn_as_cached_nor_as_new():
    chart, _ = turn_charts([turn(1, 1000, None, None)])
    assert [mark.kind for mark in chart.marks] == ["grid", "unsplit"]


def test_an_unknown_time_breaks_the_line():
    played = [turn(index, 100, 0, 0, ttft=None if index == 3 else 0.1) for index in range(1, 6)]
    _, chart = turn_charts(played)
    line = next(mark.path for mark in chart.marks if mark.kind == "line")
    assert line.count("M") == 2
    assert line.count("L") == 2


@pytest.mark.parametrize("turns", [[], [turn(1, None, None, None, ttft=None)]])
def test_without_values_there_is_no_chart(turns):
    assert turn_charts(turns) == ()


def test_a_trend_needs_two_sessions_and_one_known_ratio():
    assert trend_chart([SessionPoint(0.5, 0.6, failed=False)]) is None
    assert trend_chart([SessionPoint(None, None, failed=True)] * 3) is None


def test_a_trend_has_a_description_in_words():
    history = [
        SessionPoint(0.25, 0.8, failed=False),
        SessionPoint(0.75, 0.8, failed=False),
        SessionPoint(None, None, failed=True),
    ]
    chart = trend_chart(history)
    assert chart is not None
    assert chart.title == "Hit ratio of the last 3 sessions"
    assert "Lowest 25.0 %, highest 75.0 %, latest known 75.0 %; 1 failed." in chart.description
    assert "cross" in {mark.kind for mark in chart.marks}
