"""Rules for what Grafana does with the JSON and no query shows.

The committed dashboards keep them. The first dashboards were drawn by Grafana's own code, and each
rule finds what was wrong with them; data/first_dashboards.json is what the rules read of these.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from pathlib import Path

import lint_links as links
import lint_looks as looks
import lint_values as values
import pytest
from grafana_dashboards import MODELS, strings

FIRST = json.loads(
    (Path(__file__).parent / "data" / "first_dashboards.json").read_text(encoding="utf-8")
)
ALL = ("engine", "fleet", "overview", "session")
HIT_RATIO_BY_TURN = "Hit ratio by turn"
BARS = (
    "Still cached after an idle gap of seconds",
    "Time to first token against a cold control, by turn",
    "Times by turn: first token, whole answer",
    "Tokens by turn: prompt, ideal, cached",
)
HEADLINES = (
    "Efficiency of the probe",
    "Hit ratio of all traffic",
    "Hit ratio of the probe",
    "Time to first token saved",
)
MOVING_SUMS = (
    "Cold controls, by outcome",
    "Failed sessions, by reason",
    "Share of the ideal that was lost, by cause",
    "Tokens lost, by cause",
    "What happened, over time",
)
TIMELINES = (
    "Engine and probe",
    "Engines answer",
    "Prompt prefix",
    "Sessions finish",
    "State of the container",
    "What holds the probe back",
)
WITHOUT_RUNBOOK = (
    "Docker",
    "Efficiency of the probe",
    "Engine and probe",
    "Hit ratio of all traffic",
    "Prompt prefix",
    "Share of the ideal that was lost, by cause",
    "Time to first token of each turn",
    "Time to first token, warm turns",
)

# What was wrong with the first dashboards, the rule, and the panels or dashboards it names.
FINDINGS = [
    (
        "the curve over the turns is empty",
        looks.the_x_axis_has_the_range_of_its_own_field,
        [HIT_RATIO_BY_TURN],
    ),
    (
        "turns have the unit of the values",
        looks.the_x_axis_has_the_unit_of_its_own_field,
        [*BARS, HIT_RATIO_BY_TURN],
    ),
    (
        "ticks between two turns have labels",
        looks.ticks_between_two_turns_have_no_label,
        [HIT_RATIO_BY_TURN],
    ),
    (
        "a link opens an empty dashboard",
        links.no_link_takes_several_targets_to_a_dashboard_of_one,
        ALL,
    ),
    (
        "Session has no link that works",
        links.session_has_a_link_of_its_own,
        ["engine", "fleet", "overview"],
    ),
    ("headlines show old values", values.a_value_that_stands_alone_is_that_of_now, HEADLINES),
    (
        "no panel asks whether the exporter is up",
        values.overview_asks_whether_prometheus_reaches_the_exporter,
        ["overview"],
    ),
    (
        "headlines are green while alerts fire",
        values.headline_and_fleet_show_the_last_session,
        ["overview", "fleet"],
    ),
    ("Fleet has no order", values.the_worst_target_comes_first, ["Targets"]),
    (
        "unknown is green or red",
        values.what_is_unknown_is_grey_and_says_so,
        [*HEADLINES, "Targets", "What ails it", "Docker", "Made from", "What is measured"],
    ),
    (
        "a message without a series is blank",
        values.a_message_says_unknown_in_grey,
        ["What ails it", "Notices of the last session"],
    ),
    (
        "Docker is silent, and nothing is found",
        values.nothing_found_is_said_only_where_it_is_known,
        ["What ails it"],
    ),
    (
        "columns are outside of the panel",
        looks.a_table_shows_all_its_columns,
        ["Targets", "The engine", "The last session in figures"],
    ),
    (
        "rows are outside of the panel",
        looks.a_table_shows_all_its_rows,
        ["The last session in figures", "The engine"],
    ),
    ("names of models are cut", looks.long_names_have_room, ["The engine"]),
    ("restarts have no mark", links.a_restart_has_one_mark_at_any_time_range, ALL),
    ("stacks do not begin at zero", looks.what_is_stacked_begins_at_zero, MOVING_SUMS),
    ("one event is several bars", looks.bars_are_of_events_and_not_of_moving_sums, MOVING_SUMS),
    (
        "reasons at zero fill the legend",
        values.reasons_and_causes_at_zero_are_not_drawn,
        ["Failed sessions, by reason", "Tokens lost, by cause", "Restarts, by cause"],
    ),
    ("one panel has two windows", values.one_panel_has_one_window, ["Tokens saved per second"]),
    (
        "savings contain those of the probe",
        values.savings_are_those_of_users_and_the_probe_s_apart,
        ["Tokens saved", "Prefill time saved", "overview"],
    ),
    ("timelines have no legend", looks.a_timeline_has_its_own_colours_in_its_legend, TIMELINES),
    (
        "targets have another order in each panel",
        values.targets_have_the_same_order_in_each_panel_of_numbers,
        [*HEADLINES, "Notices of the last session", "What ails it"],
    ),
    (
        "a target without a value is missing",
        values.no_target_drops_out_of_a_panel_of_numbers,
        ["Prompt prefix", "Repeated prompts", "In this state for", "Last start took"],
    ),
    (
        "legends are cut",
        looks.a_legend_is_not_cut,
        ["Hit ratio over time", "Tokens saved per second", "What happened, over time"],
    ),
    (
        "a legend does not name the target",
        values.a_legend_says_whose_value_it_is,
        ["Failed sessions, by reason", "Tokens lost, by cause"],
    ),
    (
        "fills lie on each other",
        looks.lines_of_many_targets_have_no_fill,
        ["Hit ratio over time", "KV cache in use"],
    ),
    ("the container comes first", looks.the_container_comes_last, ["engine"]),
    (
        "empty panels say No data",
        values.an_empty_panel_says_what_it_means,
        ["In this state for", "Last start took", "KV cache capacity", "Prefill time saved"],
    ),
    (
        "counts have decimals",
        values.counts_have_no_decimals,
        ["Restarts of the engine's process", "Targets"],
    ),
    (
        "labels of heatmaps have three decimals",
        looks.a_heatmap_s_axis_has_no_more_decimals_than_it_needs,
        ["Time to first token, warm turns", "Time to first token, cold turns"],
    ),
    (
        "heatmaps show parts of turns",
        values.a_heatmap_counts_whole_turns,
        ["Time to first token, warm turns", "Time to first token, cold turns"],
    ),
    (
        "what is alive is not on the first screen",
        looks.the_first_screen_shows_what_is_alive_and_what_is_wrong,
        ["overview", "What is measured"],
    ),
    ("no panel shows the firing alerts", links.firing_alerts_lead_to_their_runbooks, ["overview"]),
    (
        "links have a fixed address",
        links.links_to_the_exporter_use_its_variable,
        [*ALL, "KV cache in use", "Repeated prompts"],
    ),
    ("panels have no runbook", links.what_an_alert_watches_links_to_its_runbook, WITHOUT_RUNBOOK),
    ("sparklines have no range", looks.a_number_has_no_curve_of_its_own, HEADLINES),
    ("the ideal hides the hit ratio", looks.no_line_hides_another, [HIT_RATIO_BY_TURN]),
    ("a click opens a menu", links.a_click_on_a_cell_follows_its_link, ["Targets"]),
]
RULES = {
    rule.__name__: rule for rule in (*(rule for _, rule, _ in FINDINGS), looks.a_heading_is_not_cut)
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_dashboards_keep(rule):
    assert sorted(set(rule(MODELS))) == []


@pytest.mark.parametrize(
    ("rule", "named"), [one[1:] for one in FINDINGS], ids=[one[0] for one in FINDINGS]
)
def test_a_rule_finds_what_was_wrong_with_the_first_dashboards(rule, named):
    assert set(named) - set(rule(FIRST)) == set()


def test_no_rule_is_left_out():
    written = {
        name
        for module in (links, looks, values)
        for name, rule in inspect.getmembers(module, inspect.isfunction)
        if rule.__module__ == module.__name__
        and list(inspect.signature(rule).parameters) == ["boards"]
    }
    assert written == set(RULES)


def test_a_tick_of_a_whole_turn_keeps_its_label():
    boards = copy.deepcopy(MODELS)
    (curve,) = (one for one in boards["session"]["panels"] if one["type"] == "trend")
    (turn,) = (
        part
        for override in curve["fieldConfig"]["overrides"]
        if override["matcher"]["options"] == "turn"
        for part in override["properties"]
        if part["id"] == "mappings"
    )
    turn["value"][0]["options"]["to"] = 1
    assert set(looks.ticks_between_two_turns_have_no_label(boards)) == {HIT_RATIO_BY_TURN}


def test_a_heading_without_room_is_found():
    boards = copy.deepcopy(MODELS)
    text = json.dumps(boards["fleet"]).replace("KV in use", "share of the KV cache in use")
    boards["fleet"] = json.loads(text)
    assert set(looks.a_heading_is_not_cut(boards)) == {"Targets"}


def test_a_link_that_loses_the_window_is_found():
    boards = copy.deepcopy(MODELS)
    text = json.dumps(boards["fleet"]).replace("&${window:queryparam}", "")
    boards["fleet"] = json.loads(text)
    assert "Targets" in set(links.a_click_on_a_cell_follows_its_link(boards))


def test_nothing_is_fetched_from_outside():
    for model in MODELS.values():
        hosts = {
            found for text in strings(model) for found in re.findall(r"https?://([^/:]+)", text)
        }
        assert hosts <= {"127.0.0.1"}
