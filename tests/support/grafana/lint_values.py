"""Rules for the values that panels show: each yields the titles of the panels that break it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lint_reading import (
    coloured,
    defaults,
    expressions,
    overridden,
    panels,
    several_targets,
    steps,
    windows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lint_reading import Boards

PLAIN = {"#808080", "transparent"}  # colours that say nothing
LAST_SESSION = "target:vllm_probe_last_session_hit:ratio"
LISTED = r"\{\{(reason|cause|outcome|what)\}\}"
NAN_FOR_OTHERS = "or on (target) NaN * max by (target) (vllm_engine_up"


def a_value_that_stands_alone_is_that_of_now(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "stat", "bargauge", "table"):
        if not all(t.get("instant") and not t.get("range") for t in one["targets"]):
            yield one["title"]


def overview_asks_whether_prometheus_reaches_the_exporter(boards: Boards) -> Iterator[str]:
    asked = " ".join(map(expressions, panels({"": boards["overview"]}, "stat")))
    if not re.search(r'\bup\{job="vllm-cache-exporter"\}', asked):
        yield "overview"


def headline_and_fleet_show_the_last_session(boards: Boards) -> Iterator[str]:
    for name, kind in (("overview", "stat"), ("fleet", "table")):
        asked = " ".join(map(expressions, panels({name: boards[name]}, kind)))
        if LAST_SESSION not in asked or "vllm_probe_cache_wedged" not in asked:
            yield name


def the_worst_target_comes_first(boards: Boards) -> Iterator[str]:
    for one in panels({"": boards["fleet"]}, "table"):
        orders = [by for step in steps(one, "sortBy") for by in step["sort"]]
        if [(by["field"], by["desc"]) for by in orders] != [("alerts", True)]:
            yield one["title"]


def what_is_unknown_is_grey_and_says_so(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "stat", "bargauge", "table"):
        for _, settings in coloured(one):
            special = (m["options"] for m in settings.get("mappings", ()) if m["type"] == "special")
            words = [told["result"] for told in special if told["match"] == "null+nan"]
            base = settings.get("thresholds", {}).get("steps", [{}])[0].get("color", "#808080")
            is_text = any(m["type"] == "regex" for m in settings.get("mappings", ()))
            grey = all(word.get("text") and word["color"] in PLAIN for word in words)
            if not is_text and not (words and grey and base in PLAIN):
                yield one["title"]


def a_message_says_unknown_in_grey(boards: Boards) -> Iterator[str]:
    """One that is coloured by its text, and any that stands in a number's place."""
    for one in panels(boards):
        if one.get("options", {}).get("textMode") == "name":
            yield one["title"]
        for _, settings in coloured(one):
            mappings = settings.get("mappings", ())
            if any(m["type"] == "regex" for m in mappings):
                words = mappings[0]["options"]
                if words.get("unknown", {}).get("color") not in PLAIN:
                    yield one["title"]


def nothing_found_is_said_only_where_it_is_known(boards: Boards) -> Iterator[str]:
    for one in panels(boards):
        asked = expressions(one)
        known = re.findall(r"0 \* (?:\([^)]*)?max by \(target\) \((\w+)", asked)
        answers = re.search(r"vllm_container_docker_up\{[^}]*\}\) == 1", asked)
        if "vllm_container_docker_up" in known and not answers:
            yield one["title"]


def an_empty_panel_says_what_it_means(boards: Boards) -> Iterator[str]:
    for one in panels(boards):
        if not defaults(one).get("noValue"):
            yield one["title"]


def reasons_and_causes_at_zero_are_not_drawn(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "timeseries", "bargauge"):
        for target in one["targets"]:
            if re.search(LISTED, target["legendFormat"]) and not (
                " > 0) or on (" in target["expr"] and '"none"' in target["expr"]
            ):
                yield one["title"]


def one_panel_has_one_window(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "timeseries"):
        if len(windows(one)) > 1:
            yield one["title"]


def savings_are_those_of_users_and_the_probe_s_apart(boards: Boards) -> Iterator[str]:
    apart = False
    for one in panels({"": boards["overview"]}, "stat", "timeseries"):
        asked = expressions(one)
        if re.search("vllm_engine_(tokens|prefill_seconds)_saved_total", asked):
            yield one["title"]
        if "vllm_engine_users_tokens_saved_total" in asked and one["type"] == "stat":
            apart = "vllm_probe_hit_tokens_total" in asked
    if not apart:
        yield "overview"


def targets_have_the_same_order_in_each_panel_of_numbers(boards: Boards) -> Iterator[str]:
    for one in panels(several_targets(boards), "stat"):
        orders = [by["field"] for step in steps(one, "sortBy") for by in step["sort"]]
        if "by (target" in expressions(one) and not (
            orders == ["target"] and one["options"]["reduceOptions"]["values"]
        ):
            yield one["title"]


def no_target_drops_out_of_a_panel_of_numbers(boards: Boards) -> Iterator[str]:
    for one in panels(several_targets(boards), "stat"):
        asked = expressions(one)
        if "by (target" in asked and NAN_FOR_OTHERS not in asked:
            yield one["title"]


def a_legend_says_whose_value_it_is(boards: Boards) -> Iterator[str]:
    for one in panels(several_targets(boards), "timeseries", "state-timeline", "bargauge"):
        if not all("{{target}}" in target["legendFormat"] for target in one["targets"]):
            yield one["title"]


def counts_have_no_decimals(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "stat", "bargauge", "table", "timeseries"):
        for settings in (defaults(one) | own for own in overridden(one).values() or [{}]):
            if settings.get("unit") == "short" and settings.get("decimals") != 0:
                yield one["title"]


def a_heatmap_counts_whole_turns(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "heatmap"):
        decimals = one["options"]["cellValues"].get("decimals")
        if "increase(" in expressions(one) or decimals != 0:
            yield one["title"]
