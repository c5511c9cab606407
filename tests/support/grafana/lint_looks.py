"""Rules for how Grafana draws panels: each yields the titles of the panels that break it."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from lint_reading import defaults, expressions, of_board, overridden, panels, several_targets, steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lint_reading import Boards, Panel

ROOM = 1300  # pixels for 24 columns in a window of 1600 with Grafana's menu open
ROWS = {"turn": 8, "target": 4}  # rows that a table of turns, and one of targets, has to show
FIRST_SCREEN = 21  # rows of Grafana's grid, 38 pixels each
X_UNITS = {"turn": "none", "gap_seconds": "s"}
DEFAULT_WIDTH = 150  # of a column
LONG_TEXTS = {"model": 240, "image": 240}

TARGETS, NAME = 4, 13  # targets that a legend has to show, and the letters of their names
VALUES = 3  # of any other label
LETTER, AROUND, LINE = 6.5, 32, 24  # pixels of a legend
AROUND_HEADING = 12  # pixels
SHARE_OF_LEGEND = 0.35  # of a panel's height; more is scrolled


def height(one: Panel) -> int:
    """The pixels below the title."""
    return 38 * one["gridPos"]["h"] - 8 - 32


def width(one: Panel) -> float:
    return ROOM * one["gridPos"]["w"] / 24 - 8


def the_x_axis_has_the_range_of_its_own_field(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "trend"):
        x = defaults(one) | overridden(one).get(one["options"]["xField"], {})
        if x.get("min") is not None or x.get("max") is not None:
            yield one["title"]


def the_x_axis_has_the_unit_of_its_own_field(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "trend", "barchart"):
        field = one["options"]["xField"]
        if overridden(one).get(field, {}).get("unit") != X_UNITS[field]:
            yield one["title"]


def ticks_between_two_turns_have_no_label(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "trend"):
        mappings = overridden(one).get(one["options"]["xField"], {}).get("mappings", ())
        blank = [m["options"] for m in mappings if not m["options"]["result"]["text"].strip()]
        for tick in (1.5, 2.25, 7.5):
            if not any(told["from"] <= tick <= told["to"] for told in blank):
                yield one["title"]
        if any(told["from"] <= turn <= told["to"] for told in blank for turn in range(1, 20)):
            yield one["title"]


def columns(one: Panel) -> list[str]:
    (shown, *_) = steps(one, "organize")
    return [shown["renameByName"].get(name, name) for name in shown["indexByName"]]


def widths(one: Panel) -> dict[str, float]:
    """As Grafana's table computes them: those without a width share what is left."""
    custom = defaults(one).get("custom", {})
    looks = {
        name: {"custom.minWidth": custom.get("minWidth", DEFAULT_WIDTH)}
        | overridden(one).get(name, {})
        for name in columns(one)
    }
    fixed = {name: look["custom.width"] for name, look in looks.items() if "custom.width" in look}
    share = (width(one) - sum(fixed.values())) / max(1, len(looks) - len(fixed))
    return {
        name: fixed.get(name) or max(look["custom.minWidth"], share) for name, look in looks.items()
    }


def a_table_shows_all_its_columns(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "table"):
        if sum(widths(one).values()) > width(one) + 1:
            yield one["title"]


def a_heading_is_not_cut(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "table"):
        if any(AROUND_HEADING + LETTER * len(name) > room for name, room in widths(one).items()):
            yield one["title"]


def a_table_shows_all_its_rows(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "table"):
        rows = ROWS["turn" if "turn" in str(one["transformations"]) else "target"]
        if height(one) < 36 * (rows + 1) + 16:
            yield one["title"]


def long_names_have_room(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "table"):
        room = widths(one)
        if any(room.get(name, least) < least for name, least in LONG_TEXTS.items()):
            yield one["title"]


def what_is_stacked_begins_at_zero(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "timeseries"):
        stacking = defaults(one)["custom"].get("stacking", {}).get("mode")
        if stacking == "normal" and defaults(one).get("min") != 0:
            yield one["title"]


def bars_are_of_events_and_not_of_moving_sums(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "timeseries"):
        if defaults(one)["custom"]["drawStyle"] == "bars" and not all(
            "offset $__interval" in target["expr"] for target in one["targets"]
        ):
            yield one["title"]


def lines_of_many_targets_have_no_fill(boards: Boards) -> Iterator[str]:
    for one in panels(several_targets(boards), "timeseries"):
        custom = defaults(one)["custom"]
        stacked = custom.get("stacking", {}).get("mode") == "normal"
        if not stacked and custom.get("fillOpacity", 0) > 0:
            yield one["title"]


def length_of_legend(target: dict[str, Any]) -> float:
    """The pixels of a query's series side by side."""
    others = len(re.findall(r"\{\{(?!target)\w+\}\}", target["legendFormat"]))
    text = re.sub(r"\{\{\w+\}\}", "x" * NAME, target["legendFormat"])
    return TARGETS * VALUES**others * (AROUND + LETTER * len(text))


def a_legend_is_not_cut(boards: Boards) -> Iterator[str]:
    for one in panels(several_targets(boards), "timeseries"):
        lines = math.ceil(sum(map(length_of_legend, one["targets"])) / width(one))
        if lines * LINE > height(one) * SHARE_OF_LEGEND:
            yield one["title"]


def a_timeline_has_its_own_colours_in_its_legend(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "state-timeline"):
        if defaults(one).get("color", {}).get("mode") != "fixed":
            yield one["title"]


def a_heatmap_s_axis_has_no_more_decimals_than_it_needs(boards: Boards) -> Iterator[str]:
    for one in panels(boards, "heatmap"):
        if one["options"]["yAxis"].get("decimals") is not None:
            yield one["title"]


def the_first_screen_shows_what_is_alive_and_what_is_wrong(boards: Boards) -> Iterator[str]:
    seen = {
        one["title"]: one
        for one in of_board(boards["overview"])
        if one["gridPos"]["y"] + one["gridPos"]["h"] <= FIRST_SCREEN
    }
    asked = " ".join(map(expressions, seen.values()))
    if not {"vllm_engine_up", "vllm_probe_up", "ALERTS"} <= set(re.findall(r"\w+", asked)):
        yield "overview"
    for one in seen.values():
        if "vllm_engine_info" in expressions(one) and one["gridPos"]["h"] > 2:
            yield one["title"]


def the_container_comes_last(boards: Boards) -> Iterator[str]:
    """External targets have none."""
    headings = [one["title"] for one in of_board(boards["engine"], "row")]
    if headings[-1] != "Container":
        yield "engine"


def a_number_has_no_curve_of_its_own(boards: Boards) -> Iterator[str]:
    """It has no range, so the smallest change would fill it."""
    for one in panels(boards, "stat"):
        if one["options"]["graphMode"] != "none":
            yield one["title"]


def no_line_hides_another(boards: Boards) -> Iterator[str]:
    """The ideal is often the same as the hit ratio."""
    for one in panels(boards, "trend"):
        dashed = [field for field, own in overridden(one).items() if "custom.lineStyle" in own]
        if not any("ideal" in field for field in dashed):
            yield one["title"]
