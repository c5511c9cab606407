"""The text in the chart of a session, read from its SVG."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publish_records import EAGLE_TURNS, failed_session, session, turn

from exporter.errors import ConfigError
from exporter.model.session import Control, ControlOutcome, LossCause
from exporter.report import charts
from exporter.report.drawing import SKY, with_gaps
from exporter.report.session.series import PromptSplit, prompt_split, running_sum

WARM = (
    turn(1, 1000, 0, 0, ttft=0.5),
    turn(2, 1250, 992, 992, ttft=0.06),
    turn(3, 1500, 1024, 1280, ttft=0.12, cause=LossCause.EVICTED),
)


def texts(result, **options) -> list[str]:
    """All texts of the SVG, in drawing order."""
    root = ET.fromstring(charts.session_picture(result, "svg", **options))  # noqa: S314 - our own
    found = root.iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()) for element in found]


def test_the_title_names_model_version_and_date():
    said = texts(session(*WARM, model="Qwen/Qwen2.5-7B-Instruct"))
    assert "Qwen/Qwen2.5-7B-Instruct · vLLM 0.32.0" in said
    assert "coding-agent · 2026-01-01 00:00:00 UTC" in said


def test_simulated_is_written_across_a_simulated_session_only():
    assert "SIMULATED" in texts(session(*WARM, simulated=True))
    assert "SIMULATED: tiny · vLLM 0.32.0" in texts(session(*WARM, simulated=True))
    assert not [text for text in texts(session(*WARM)) if "SIMULATED" in text]


def test_each_panel_names_what_it_shows():
    said = texts(session(*WARM))
    for text in (
        *("Hit ratio: share of the prompt served from cache", "50 %", "ideal", "served"),
        *("Prompt tokens", "cached", "lost", "new"),
        *("Time to first token and latency (log scale)", "latency", "TTFT"),
        "Tokens served from cache, cumulative",
    ):
        assert text in said, text


def test_what_the_rule_gives_up_has_a_name_and_a_colour_of_its_own():
    def drawn(*turns):
        return charts.session_picture(session(*turns), "svg").decode()

    both = turn(4, 1700, 1024, 1504, gives_up=32, cause=LossCause.EVICTED)
    said = texts(session(*EAGLE_TURNS, both))
    assert said.count("attainable") == 2
    assert "given up by the engine's rule" in said
    assert "evicted" in said
    assert SKY.lower() in drawn(*EAGLE_TURNS)
    assert SKY.lower() not in drawn(*WARM)
    assert "attainable" not in texts(session(*WARM))
    assert "given up by the engine's rule" not in texts(session(*WARM))


def test_a_loss_has_its_cause_and_the_sum_its_number():
    said = texts(session(*WARM))
    assert "evicted" in said
    assert "2,016" in said  # 0 + 992 + 1024


def test_a_control_is_drawn_only_if_there_is_one():
    control = Control(ControlOutcome.COLD, True, 1250, 32, 0.55)
    with_one = session(WARM[0], replace(WARM[1], control=control))
    assert "TTFT without cache" in texts(with_one)
    assert "TTFT without cache" not in texts(session(*WARM))


def test_without_details_the_chart_names_what_is_unknown_and_draws_no_ratio():
    said = texts(session(turn(1, 1000, None, 0), turn(2, 1250, None, 992)))
    assert "hit ratio unknown" in said
    assert "unknown" in said
    assert "no sum from turn 1 on: its cached tokens are unknown" in said
    assert "served" not in said


def test_one_unknown_turn_is_a_gap_that_is_named():
    said = texts(session(*WARM, turn(4, 1700, None, 1504, ttft=None), turn(5, 1800, 1600, 1600)))
    assert "hit ratio unknown in turn 4" in said
    assert "TTFT unknown in turn 4" in said
    assert "no sum from turn 4 on: its cached tokens are unknown" in said


def test_a_failed_session_is_marked_and_has_its_finished_turns():
    said = texts(failed_session(*WARM))
    assert "FAILED in turn 4: connection refused (127.0.0.1:8000 refused the connection)" in said
    assert said.count("failed") == 4
    assert "2,016" in said


def test_a_session_without_a_turn_has_panels_that_say_so():
    said = texts(failed_session())
    assert said.count("no turn finished") == 4
    assert any(text.startswith("FAILED in turn 1") for text in said)


def test_an_interrupted_session_says_after_which_turn():
    assert "Interrupted after turn 3" in texts(session(*WARM), interrupted=True)


@pytest.mark.parametrize("model", ["$x^2$", "a\x00b\ud800c", "<b>&amp;</b>", "模型 🤖", "m" * 300])
def test_a_model_may_have_any_name(model):
    said = texts(session(*WARM, model=model))
    shown = "".join(c if c.isprintable() else "?" for c in model)
    assert any(text.startswith(shown[:50]) for text in said)
    assert charts.session_picture(session(*WARM, model=model), "png").startswith(b"\x89PNG")


def test_the_same_session_makes_the_same_file():
    first, again = (charts.session_picture(session(*WARM), "svg") for _ in range(2))
    assert first == again


def test_a_chart_does_not_load_pyplot():
    charts.session_picture(session(*WARM))
    assert "matplotlib.pyplot" not in sys.modules


def test_a_missing_extra_is_a_sentence_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(charts.ExtraMissingError, match=re.escape("pip install 'matplotlib>=3.9'")):
        charts.session_picture(session(*WARM))


def test_without_pip_the_way_to_install_it_is_one_that_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(charts, "find_spec", lambda _name: None)
    with pytest.raises(charts.ExtraMissingError) as caught:
        charts.session_picture(session(*WARM))
    assert "pip install" not in str(caught.value)
    assert "pipx inject vllm-cache-exporter" in str(caught.value)
    assert "The container image has no charts" in str(caught.value)


@pytest.mark.parametrize("name", ["x.jpg", "x", "png", "x.png.txt"])
def test_the_suffix_of_a_chart_gives_its_format(name):
    with pytest.raises(ConfigError, match=r"must end in \.png or \.svg"):
        charts.check_chart(name)


def test_the_folder_of_a_chart_is_checked_before_the_session(tmp_path):
    with pytest.raises(ConfigError, match=r"the folder .* does not exist"):
        charts.check_chart(str(tmp_path / "none" / "x.png"))
    charts.check_chart(str(tmp_path / "x.PNG"))


@given(
    prompt=st.integers(1, 10_000),
    cached=st.none() | st.integers(0, 10_000),
    ideal=st.none() | st.integers(0, 10_000),
    index=st.integers(1, 9),
    gives_up=st.integers(0, 600),
    known=st.booleans(),
)
def test_the_parts_of_a_prompt_add_up_to_it(*, prompt, cached, ideal, index, gives_up, known):
    cached = None if cached is None else min(cached, prompt)
    ideal = None if ideal is None else min(ideal, prompt)
    gives_up = min(gives_up, ideal or 0) if index > 1 else 0
    facts = turn(index, prompt, cached, ideal, gives_up=gives_up)
    if not known:
        facts = replace(facts, attainable_cached_tokens=None, loss=None, rule_losses=())
    split = prompt_split(facts)
    parts = (split.cached, split.lost, split.given_up, split.new, split.unknown)
    assert sum(parts) == prompt
    assert min(parts) >= 0
    assert split.given_up <= gives_up
    assert (split.unknown == prompt) == (cached is None) or cached == 0


def test_a_prompt_is_split_into_what_hit_was_lost_was_given_up_and_is_new():
    lost = turn(3, 1500, 1024, 1280, gives_up=32)
    assert prompt_split(lost) == PromptSplit(1024, 224, 32, 220, 0)
    open_rule = replace(lost, attainable_cached_tokens=None, loss=None, rule_losses=())
    assert prompt_split(open_rule) == PromptSplit(1024, 0, 0, 220, 256)


def test_a_prompt_of_unknown_length_is_not_split():
    assert prompt_split(turn(2, None, None, None)) is None


@given(st.lists(st.none() | st.integers(0, 1000)))
def test_a_sum_is_known_up_to_the_first_unknown_part(values):
    sums = running_sum(values)
    known = values.index(None) if None in values else len(values)
    assert list(sums[known:]) == [None] * (len(values) - known)
    assert list(sums[:known]) == [sum(values[: n + 1]) for n in range(known)]


def test_an_unknown_value_is_a_gap_and_not_zero():
    zero, unknown = with_gaps([0.0, None])
    assert zero == 0
    assert math.isnan(unknown)
