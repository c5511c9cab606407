"""The committed dashboards: current, in the classic form, complete, with existing metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from grafana_dashboards import (
    MODELS,
    every_query,
    groupings,
    metric_names,
    panel,
    panel_queries,
    panels,
    selectors,
    strings,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from exporter.container.decide.records import LifecycleState
from exporter.metrics.families.tables import EXPORTER_FAMILIES, LOOP_FAMILIES, TARGET_FAMILIES
from exporter.model.probe import PauseReason
from exporter.model.reuse import RuleCause
from grafana.build import DASHBOARDS_FOLDER, dashboards, render, without_placement, write
from grafana.names import DATASOURCE_UID, SEVERAL_TARGETS, TAG, Uid

NAMES = sorted(MODELS)

each_dashboard = pytest.mark.parametrize("name", NAMES)


RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"


def family_labels() -> dict[str, set[str]]:
    """Every sample name that the exporter, the rules and Prometheus can write, with its labels."""
    known = {"up": {"job"}, "ALERTS": {"target", "alertname", "alertstate", "severity", "about"}}
    for name in re.findall(r"record: (\S+)", (RULES / "recording.yml").read_text(encoding="utf-8")):
        known[name] = set(name.partition(":")[0].split("_"))
    for families, leading in (
        (TARGET_FAMILIES, {"target"}),
        ((*EXPORTER_FAMILIES, *LOOP_FAMILIES), set()),
    ):
        for family in families:
            labels = leading | set(family.reader.labels)
            known[family.name] = labels
            if family.kind == "histogram":
                known |= {f"{family.name}_{part}": labels for part in ("sum", "count")}
                known[f"{family.name}_bucket"] = labels | {"le"}
    return known


def test_the_committed_dashboards_are_what_the_script_writes(tmp_path):
    write(tmp_path)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in DASHBOARDS_FOLDER.iterdir()}
    assert committed == written, "run `python -m grafana` and commit grafana/dashboards"


def test_there_are_the_four_dashboards():
    assert NAMES == ["engine", "fleet", "overview", "session"]


@each_dashboard
def test_a_dashboard_is_written_the_same_each_time(name):
    assert render(dashboards()[name]) == render(dashboards()[name])


@each_dashboard
def test_the_json_is_the_classic_form_and_not_the_second(name):
    model = MODELS[name]
    assert {"elements", "layout", "apiVersion", "kind", "spec"}.isdisjoint(model)
    assert isinstance(model["panels"], list)
    assert isinstance(model["schemaVersion"], int)
    assert {"list"} == set(model["templating"]) == set(model["annotations"])


@each_dashboard
def test_the_sdk_reads_a_dashboard_back_unchanged(name):
    register_default_plugins()
    model = MODELS[name]
    back = json.loads(JSONEncoder().encode(Dashboard.from_json(model)))
    assert without_placement(back) == model


@each_dashboard
def test_every_metric_in_a_query_is_one_that_the_exporter_has(name):
    known = family_labels()
    asked = {q: metric_names(q.expr) for q in every_query() if q.dashboard == name}
    assert asked
    for question, metrics in asked.items():
        assert metrics, f"no metric: {question}"
        assert metrics <= set(known), f"{metrics - set(known)} in {question}"


@each_dashboard
def test_every_label_in_a_query_is_one_that_its_metric_has(name):
    known = family_labels()
    for question in every_query():
        if question.dashboard != name:
            continue
        chosen = list(selectors(question.expr))
        for metric, labels in chosen:
            assert labels <= known[metric], f"{labels - known[metric]} of {metric} in {question}"
        there = set().union(*(known[metric] for metric in metric_names(question.expr)))
        assert groupings(question.expr) <= there, str(question)


def test_every_panel_uses_the_chosen_targets():
    for name in NAMES:
        for question in panel_queries(name):
            for metric, labels in selectors(question.expr):
                if metric != "up":  # the exporter's own, for all targets
                    assert "target" in labels, f"{metric} in {question}"


@each_dashboard
def test_counters_are_read_by_their_growth_and_gauges_are_not(name):
    for question in panel_queries(name):
        grows = r"(?:rate|increase)\((vllm_[a-z_]+)\{[^}]*\}\[\$[a-z_]+\]\)"
        grown = set(re.findall(grows, question.expr))
        # As `increase` over a step of the graph, but without its estimate at the edges.
        since = (
            r"(vllm_[a-z_]+)\{[^}]*\}\) - \(sum by \([a-z, ]+\) \(\1\{[^}]*\} offset \$__interval\)"
        )
        grown |= set(re.findall(since, question.expr))
        counters = {
            metric
            for metric in metric_names(question.expr)
            if metric.endswith(("_total", "_bucket", "_sum", "_count"))
        }
        assert counters == grown, str(question)


@each_dashboard
def test_every_panel_has_a_title_a_description_a_unit_a_source_and_queries(name):
    assert panels(name)
    for one in panels(name):
        assert one["title"]
        assert len(one["description"]) > 30, one["title"]
        assert one["fieldConfig"]["defaults"]["unit"], one["title"]
        assert one["targets"], one["title"]
        sources = [one["datasource"], *(target["datasource"] for target in one["targets"])]
        assert {(s["type"], s["uid"]) for s in sources} == {("prometheus", "${datasource}")}
        refs = [target["refId"] for target in one["targets"]]
        assert len(refs) == len(set(refs)), one["title"]


@each_dashboard
def test_a_panel_coloured_by_thresholds_sets_its_own_thresholds(name):
    for one in panels(name):
        if one["type"] in {"stat", "bargauge"}:
            assert one["fieldConfig"]["defaults"]["thresholds"]["steps"], one["title"]


@each_dashboard
def test_panels_have_unique_ids_and_do_not_overlap_or_leave_the_grid(name):
    everything = MODELS[name]["panels"]
    numbers = [one["id"] for one in everything]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for one in everything:
        at = one["gridPos"]
        assert at["x"] + at["w"] <= 24, one["title"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert taken.isdisjoint(cells), one["title"]
        taken |= cells
    assert len({one["title"] for one in everything}) == len(everything)


@each_dashboard
def test_a_dashboard_has_the_variables_and_the_annotations(name):
    model = MODELS[name]
    variables = {variable["name"]: variable for variable in model["templating"]["list"]}
    of_turns = ["scenario"] if name == "session" else []
    assert list(variables) == ["datasource", "target", *of_turns, "window", "exporter", "filters"]
    assert variables["datasource"]["current"]["value"] == DATASOURCE_UID
    assert variables["target"]["datasource"]["uid"] == "${datasource}"
    assert variables["target"]["refresh"] == 2, "new targets appear when the time changes"
    assert all(variable["label"] for variable in variables.values())
    used = {word for text in strings(model) for word in re.findall(r"\$([a-z]\w*)", text)}
    assert used <= set(variables)
    asked = " ".join(annotation["expr"] for annotation in model["annotations"]["list"])
    counters = {one for one in metric_names(asked) if one.endswith("_total")}
    assert counters == {"vllm_container_restarts_total", "vllm_engine_restarts_total"}
    assert model["editable"] is False


@each_dashboard
def test_filters_apply_to_the_chosen_prometheus(name):
    (filters,) = (v for v in MODELS[name]["templating"]["list"] if v["name"] == "filters")
    assert filters["type"] == "adhoc"
    assert filters["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_addresses_are_unique_and_never_change():
    assert sorted(model["uid"] for model in MODELS.values()) == sorted(Uid)
    assert list(Uid) == [
        "vllm-cache-overview",
        "vllm-cache-session",
        "vllm-cache-engine",
        "vllm-cache-fleet",
    ], "an address that changes breaks bookmarks"
    titles = [model["title"] for model in MODELS.values()]
    assert len(titles) == len(set(titles))


@each_dashboard
def test_a_dashboard_links_to_the_others_by_their_common_tag(name):
    links = [link for link in MODELS[name]["links"] if link["type"] == "dashboards"]
    (link,) = links
    assert link["tags"] == [SEVERAL_TARGETS]
    assert link["includeVars"]
    assert link["keepTime"]
    assert all(TAG in model["tags"] for model in MODELS.values())


def test_links_to_a_dashboard_lead_to_an_existing_one_and_keep_the_target():
    """Those of a dashboard as a whole keep none: it may show several."""
    parts = [part for model in MODELS.values() for part in model["panels"]]
    urls = [text for part in parts for text in strings(part) if text.startswith("/d/")]
    assert urls
    for url in urls:
        uid, _, query = url.removeprefix("/d/").partition("?")
        assert uid in set(Uid)
        assert "var-target=${__data.fields.target}" in query


def test_the_timeline_has_a_word_and_a_colour_for_every_state_of_a_container():
    (mapping,) = panel("engine", "State of the container")["fieldConfig"]["defaults"]["mappings"]
    words = [option["text"] for option in mapping["options"].values()]
    assert sorted(words) == sorted(state.replace("_", " ") for state in LifecycleState)
    assert all(option["color"] for option in mapping["options"].values())


@pytest.mark.parametrize(
    ("dashboard", "title"),
    [
        ("session", "Hit ratio by turn"),
        ("session", "Hit ratio of each turn over time"),
        ("overview", "Hit ratio over time"),
        ("engine", "Hit ratio of users, by window"),
    ],
)
def test_hit_ratios_are_drawn_with_lines_at_two_fifths_and_a_half(dashboard, title):
    defaults = panel(dashboard, title)["fieldConfig"]["defaults"]
    assert [step["value"] for step in defaults["thresholds"]["steps"]] == [None, 0.4, 0.5]
    assert defaults["custom"]["thresholdsStyle"]["mode"] == "dashed"
    assert (defaults["min"], defaults["max"]) == (0, 1)


def test_the_banner_stands_first_and_says_simulated():
    banner = MODELS["overview"]["panels"][0]
    words = banner["fieldConfig"]["defaults"]["mappings"][0]["options"]
    assert words["1"]["text"].startswith("SIMULATED")
    assert banner["gridPos"] | {"h": 0} == {"x": 0, "y": 0, "w": 24, "h": 0}


def test_what_the_reuse_rule_gives_up_is_never_among_the_losses():
    rule = "|".join(RuleCause)
    for question in every_query():
        if "vllm_probe_lost_tokens_total" in question.expr and "cause" in question.expr:
            assert re.search(rf'cause(!~|=~)"{re.escape(rule)}"', question.expr), str(question)


def test_what_the_reuse_rule_gives_up_is_not_red():
    for name, title in (
        ("overview", "Tokens that the reuse rule gives up, by cause"),
        ("session", "Share of the ideal that the reuse rule gives up, by cause"),
    ):
        overrides = panel(name, title)["fieldConfig"]["overrides"]
        colours = {
            one["matcher"]["options"]: value["value"]["fixedColor"]
            for one in overrides
            for value in one["properties"]
            if value["id"] == "color"
        }
        assert set(colours) == {f"/(^| ){cause}$/" for cause in RuleCause}
        assert not {"red", "orange"} & set(colours.values())


def test_the_overview_says_what_the_probe_rewrites_beside_the_limit():
    (target,) = panel("overview", "Probe rewrites per hour")["targets"]
    assert "vllm_probe_cache_turnover_ratio" in target["expr"]
    assert "vllm_probe_cache_turnover_limit_ratio" in target["expr"]
    assert target["format"] == "table", "a row has the name of its labels, target and what"


def test_the_overview_shows_the_ages_of_the_last_session_and_of_the_last_heartbeat():
    (target,) = panel("overview", "Age of the last session and heartbeat")["targets"]
    for family in ("vllm_probe_last_success", "vllm_probe_heartbeat_last_success"):
        assert f"time() - max by (target) ({family}_timestamp_seconds" in target["expr"]


@pytest.mark.parametrize("name", ["overview", "session"])
def test_why_the_probe_waits_explains_every_reason(name):
    words = {"asleep": "asleep|sleeps", "scaling": "scaling|scaled", "usage": "usage|fill"}
    told = panel(name, "Why the probe waits")["description"]
    for reason in PauseReason:
        assert re.search(words.get(reason, reason), told), reason


def test_turns_of_heartbeats_are_not_shown_as_those_of_sessions():
    variables = {one["name"]: one for one in MODELS["session"]["templating"]["list"]}
    assert 'scenario!="heartbeat"' in variables["scenario"]["query"]
    for question in every_query():
        for by_turn in re.findall(r"vllm_probe_turn_[a-z_]+\{[^}]*\}", question.expr):
            assert 'scenario="$scenario"' in by_turn or 'scenario!="heartbeat"' in by_turn
