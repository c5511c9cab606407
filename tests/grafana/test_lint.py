"""Rules for what Grafana does with the JSON and no query shows: one test each, one mistake each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from grafana_dashboards import MODELS, panel, panels, strings

from grafana.names import Uid

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = sorted(MODELS)
PLAIN = {"#808080", "transparent"}  # colours that say nothing
NARROW = 1300  # pixels for panels in a window of 1600 with Grafana's menu open
ROWS = {"turn": 8, "target": 4}  # rows that a table of turns, and one of targets, has to show

each_dashboard = pytest.mark.parametrize("name", NAMES)


def of_type(name: str, *types: str) -> list[dict[str, Any]]:
    return [one for one in panels(name) if one["type"] in types]


def own(one: dict[str, Any], field: str) -> dict[str, Any]:
    """What the overrides of one field set. A property without a value takes the default away."""
    return {
        part["id"]: part.get("value")
        for override in one["fieldConfig"]["overrides"]
        if override["matcher"] == {"id": "byName", "options": field}
        for part in override["properties"]
    }


def coloured(one: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields that Grafana colours by their value, with their settings."""
    defaults = one["fieldConfig"]["defaults"]
    if one["type"] in {"stat", "bargauge"}:
        yield one["title"], defaults
    for override in one["fieldConfig"]["overrides"] if one["type"] == "table" else ():
        properties = {part["id"]: part.get("value") for part in override["properties"]}
        if "custom.cellOptions" in properties:
            yield override["matcher"]["options"], defaults | properties


def word_of_unknown(settings: dict[str, Any]) -> dict[str, Any]:
    for mapping in settings.get("mappings", ()):
        if mapping["type"] == "special" and mapping["options"]["match"] == "null+nan":
            return mapping["options"]["result"]
    return {}


@each_dashboard
def test_the_x_axis_has_the_range_of_its_own_field_and_not_that_of_the_values(name):
    for one in of_type(name, "trend"):
        x = one["fieldConfig"]["defaults"] | own(one, one["options"]["xField"])
        assert x.get("min") is None, one["title"]
        assert x.get("max") is None, one["title"]


@each_dashboard
def test_the_x_axis_has_the_unit_of_its_own_field_and_not_that_of_the_values(name):
    units = {"turn": "none", "gap_seconds": "s"}
    for one in of_type(name, "trend", "barchart"):
        x = one["options"]["xField"]
        assert own(one, x).get("unit") == units[x], one["title"]


@each_dashboard
def test_no_link_takes_several_targets_to_a_dashboard_of_one_target(name):
    several = {}
    for model in MODELS.values():
        (target,) = (v for v in model["templating"]["list"] if v["name"] == "target")
        several[model["uid"]] = target.get("multi", False), set(model["tags"])
    for link in MODELS[name]["links"]:
        if link["type"] == "dashboards" and link["includeVars"]:
            reached = [uid for uid, (_, tags) in several.items() if tags >= set(link["tags"])]
            assert all(several[uid][0] for uid in reached), (link["title"], reached)
    urls = [link["url"] for link in MODELS[name]["links"] if link["type"] == "link"]
    alone = [url for url in urls if url.startswith(f"/d/{Uid.SESSION}")]
    assert len(alone) == (name != "session"), "the link to Session stands by itself"
    assert not any("target" in url for url in alone)


@each_dashboard
def test_a_value_that_stands_alone_is_that_of_now_and_says_when_it_is_unknown(name):
    for one in of_type(name, "stat", "bargauge", "table"):
        assert all(t.get("instant") and not t.get("range") for t in one["targets"]), one["title"]
        assert one["fieldConfig"]["defaults"].get("noValue"), one["title"]


def test_the_overview_asks_whether_prometheus_reaches_the_exporter():
    asked = [target["expr"] for one in of_type("overview", "stat") for target in one["targets"]]
    assert any(re.search(r'\bup\{job="vllm-cache-exporter"\}', expr) for expr in asked)


def test_headline_and_fleet_show_the_last_session_and_the_fleet_its_worst_first():
    last = "target:vllm_probe_last_session_hit:ratio"
    assert any(last in t["expr"] for one in of_type("overview", "stat") for t in one["targets"])
    table = panel("fleet", "Targets")
    asked = " ".join(target["expr"] for target in table["targets"])
    assert last in asked
    assert "vllm_probe_cache_wedged" in asked
    (order,) = (step["options"] for step in table["transformations"] if step["id"] == "sortBy")
    assert [(by["field"], by["desc"]) for by in order["sort"]] == [("alerts", True)]


@each_dashboard
def test_what_is_unknown_is_grey_and_says_so(name):
    for one in of_type(name, "stat", "bargauge", "table"):
        for field, settings in coloured(one):
            word = word_of_unknown(settings)
            assert word.get("text"), f"{one['title']}: {field}"
            assert word["color"] in PLAIN, f"{one['title']}: {field}"
            first = settings["thresholds"]["steps"][0] if "thresholds" in settings else {}
            assert first.get("color", "#808080") in PLAIN, f"{one['title']}: {field}"


@each_dashboard
def test_nothing_found_is_said_only_where_it_is_known(name):
    for one in panels(name):
        for target in one["targets"]:
            known = re.findall(r"0 \* (?:\([^)]*)?max by \(target\) \((\w+)", target["expr"])
            assert "vllm_container_docker_up" not in known or re.search(
                r"vllm_container_docker_up\{[^}]*\}\) == 1", target["expr"]
            ), one["title"]


@each_dashboard
def test_a_table_fits_into_its_panel_with_all_its_rows_and_columns(name):
    for one in of_type(name, "table"):
        columns = next(
            len(step["options"]["indexByName"])
            for step in one["transformations"]
            if step["id"] == "organize"
        )
        default = one["fieldConfig"]["defaults"]["custom"].get("minWidth", 150)
        wider = [
            part["value"] - default
            for override in one["fieldConfig"]["overrides"]
            for part in override["properties"]
            if part["id"] == "custom.minWidth"
        ]
        assert columns * default + sum(wider) <= NARROW * one["gridPos"]["w"] / 24, one["title"]
        rows = ROWS["turn" if "turn" in str(one["transformations"]) else "target"]
        assert 38 * one["gridPos"]["h"] - 8 >= 32 + 36 * (rows + 1) + 16, one["title"]


@each_dashboard
def test_each_restart_has_one_mark(name):
    marks = {one["name"]: one for one in MODELS[name]["annotations"]["list"]}
    for mark in marks.values():
        growth = mark["expr"].partition(" unless ")[0]
        assert f"offset {mark['step']}" in growth, "a mark for each step in which it grew"
        assert "increase(" not in growth, "it misses growth between the samples of two windows"
    engine = marks["Engine restarts"]["expr"]
    assert "unless on (target)" in engine, "the restart of a container is one of its engine too"


@each_dashboard
def test_counts_have_no_decimals(name):
    for one in of_type(name, "stat", "bargauge", "table"):
        for field in [
            override["matcher"]["options"] for override in one["fieldConfig"]["overrides"]
        ] or [""]:
            settings = one["fieldConfig"]["defaults"] | own(one, field)
            if settings["unit"] == "short":
                assert settings.get("decimals") == 0, f"{one['title']}: {field}"


@each_dashboard
def test_a_timeline_has_its_own_colours_in_its_legend(name):
    for one in of_type(name, "state-timeline"):
        assert one["fieldConfig"]["defaults"]["color"]["mode"] == "fixed", one["title"]


def test_nothing_is_fetched_from_outside():
    for model in MODELS.values():
        hosts = {
            found for text in strings(model) for found in re.findall(r"https?://([^/:]+)", text)
        }
        assert hosts <= {"127.0.0.1"}


@each_dashboard
def test_reasons_and_causes_at_zero_are_not_drawn(name):
    for one in of_type(name, "timeseries", "bargauge"):
        for target in one["targets"]:
            if re.search(r"\{\{(reason|cause|outcome)\}\}", target["legendFormat"]):
                assert " > 0) or on (" in target["expr"], one["title"]
                assert '"none"' in target["expr"], one["title"]


@each_dashboard
def test_what_is_stacked_begins_at_zero_and_bars_are_of_events(name):
    for one in of_type(name, "timeseries"):
        settings = one["fieldConfig"]["defaults"]
        if settings["custom"].get("stacking", {}).get("mode") == "normal":
            assert settings["min"] == 0, one["title"]
        if settings["custom"]["drawStyle"] == "bars":
            assert all("offset $__interval" in t["expr"] for t in one["targets"]), one["title"]


def test_the_container_that_an_external_target_lacks_comes_last():
    headings = [one["title"] for one in MODELS["engine"]["panels"] if one["type"] == "row"]
    assert headings[-1] == "Container"


@each_dashboard
def test_targets_have_the_same_order_in_each_panel_of_numbers(name):
    """Those whose names are a message keep the order of their series."""
    for one in of_type(name, "stat"):
        if one["options"].get("textMode") == "name" or len(one["targets"]) > 1:
            continue
        if "by (target" in one["targets"][0]["expr"]:
            (order,) = one["transformations"]
            assert order["options"]["sort"] == [{"field": "target", "desc": False}], one["title"]
            assert one["options"]["reduceOptions"]["values"], one["title"]
            assert one["targets"][0]["format"] == "table", one["title"]
