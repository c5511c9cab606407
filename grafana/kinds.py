"""The kinds of panel that the dashboards use, with their settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import (
    barchart,
    bargauge,
    common,
    heatmap,
    stat,
    statetimeline,
    table,
    timeseries,
    trend,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode

from exporter.model.reuse import RuleCause
from grafana.parts import (
    BLUE,
    GREEN,
    GREY,
    SECONDS,
    UNKNOWN,
    any_word,
    by_threshold,
    fixed,
    known,
    labels,
    no_word,
    thresholds,
    transformations,
    unknown_word,
    value_words,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from grafana.parts import Transformation

_RULE_COLORS: Final = {
    RuleCause.SPECULATIVE_DECODING: BLUE,
    RuleCause.ANSWER_NOT_KEPT: "light-blue",
    RuleCause.UNIT: "purple",
    RuleCause.STORE_CHUNK: "light-purple",
}


def in_order_of(field: str) -> tuple[Transformation, Transformation]:
    """Rows in the order of a label's numbers, 10 after 9: labels are text."""
    return _converted(field, "number"), sorted_by(field)


def sorted_by(field: str, *, desc: bool = False) -> Transformation:
    return "sortBy", {"fields": {}, "sort": [{"field": field, "desc": desc}]}


def _converted(field: str, to: str) -> Transformation:
    conversion = {"targetField": field, "destinationType": to}
    return "convertFieldType", {"conversions": [conversion], "fields": {}}


def lines() -> timeseries.Panel:
    """Values over time."""
    return (
        timeseries.Panel()
        .draw_style(looks.GraphDrawStyle.LINE)
        .line_width(2)
        .fill_opacity(0)  # those of many targets would lie on each other
        .no_value(UNKNOWN)
        .show_points(looks.VisibilityMode.AUTO)
        .legend(_legend())
        .tooltip(
            common.VizTooltipOptions()
            .mode(looks.TooltipDisplayMode.MULTI)
            .sort(looks.SortOrder.DESCENDING)
        )
    )


def areas() -> timeseries.Panel:
    """Parts of a whole over a moving window, stacked. As bars, one event would look like many."""
    return (
        lines()
        .line_width(1)
        .fill_opacity(40)
        .min(0)
        .stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL).group("A"))
    )


def bars_of_events() -> timeseries.Panel:
    """Events, each in the bar of its own time. For what `promql.events` counts."""
    return areas().draw_style(looks.GraphDrawStyle.BARS).fill_opacity(70).interval("1m").decimals(0)


def areas_of_rule_causes(unit: str) -> timeseries.Panel:
    """What the reuse rule gives up, over time. No colour says that something is wrong."""
    panel = areas()
    for cause, colour in _RULE_COLORS.items():
        ends_with_it = f"/(^| ){cause}$/"  # the name of the target may stand before it
        panel = panel.override_by_regexp(*column(ends_with_it, unit, color(colour)))
    return panel


def figure() -> stat.Panel:
    """One large number per target, blue; grey and in words if it is unknown.

    Without thresholds Grafana uses its own: red from 80 on.
    """
    return (
        stat.Panel()
        .graph_mode(looks.BigValueGraphMode.NONE)
        .reduce_options(_last())
        .mappings([unknown_word()])
        .no_value(UNKNOWN)
        .thresholds(thresholds(((None, GREY),)))
        .color_scheme(fixed(BLUE))
    )


def grade(steps: Sequence[tuple[float | None, str]]) -> stat.Panel:
    """One large number per target, coloured by what is good."""
    return figure().thresholds(known(steps)).color_scheme(by_threshold())


def by_target(panel: stat.Panel) -> stat.Panel:
    """A value per row of `parts.rows`, in the order of the targets' names.

    The order of series differs from query to query, and so from panel to panel.
    """
    return panel.reduce_options(_last().values(True)).transformations(
        transformations(sorted_by("target"))
    )


def verdict(words: Mapping[str, tuple[str, str]], unknown: str = UNKNOWN) -> stat.Panel:
    """A value as a word on its colour; `unknown`, on grey, if there is no value."""
    return (
        figure()
        .color_mode(looks.BigValueColorMode.BACKGROUND)
        .mappings([*value_words(words), unknown_word(unknown)])
        .no_value(unknown)
        .color_scheme(by_threshold())
    )


def messages(label: str, fine: str, otherwise: str) -> table.Panel:
    """A row per target with a label of its series as a message: green if it is `fine`, grey if it
    is unknown or there is no container, else the other colour.
    """
    plain = {word: (word, GREY) for word in ("no container", UNKNOWN)}
    words = value_words({fine: (fine, GREEN), **plain})
    return (
        grid()
        .transformations(transformations(labels("target", label), sorted_by("target")))
        .override_by_name(
            *column(label, "none", ("mappings", [*words, any_word(otherwise)]), _COLOURED_CELL)
        )
    )


def states(words: Mapping[str, tuple[str, str]]) -> statetimeline.Panel:
    """One row per series, its values as words and colours."""
    return (
        statetimeline.Panel()
        .mappings(value_words(words))
        .merge_values(True)
        .show_value(looks.VisibilityMode.AUTO)
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.FIXED))  # else no legend
        .row_height(0.8)
        .no_value(UNKNOWN)
        .fill_opacity(80)
        .legend(_legend())
    )


def heat() -> heatmap.Panel:
    """Buckets of a histogram over time: darker means more."""
    return (
        heatmap.Panel()
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .steps(64)
            .reverse(False)
        )
        .y_axis(heatmap.YAxisConfig().unit("s").axis_placement(looks.AxisPlacement.LEFT))
        .cell_values(heatmap.CellValues().unit("short").decimals(0))
        .no_value(UNKNOWN)
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .interval("1m")
    )


def bars_by(field: str, *steps: Transformation) -> barchart.Panel:
    """Bars side by side, a group for each number of `field`, as text: the axis needs text.

    Without a unit of its own the axis would have that of the bars.
    """
    unit = SECONDS if field.endswith("_seconds") else "none"
    return (
        barchart.Panel()
        .x_field(field)
        .orientation(looks.VizOrientation.VERTICAL)
        .show_value(looks.VisibilityMode.NEVER)
        .no_value(UNKNOWN)
        .group_width(0.75)
        .fill_opacity(80)
        .legend(_legend())
        .transformations(transformations(*steps, *in_order_of(field), _converted(field, "string")))
        .override_by_name(*column(field, unit))
    )


def curve_by_turn(*steps: Transformation) -> trend.Panel:
    """Curves over the turns of the last session.

    The axis of the turns drops the unit and the range of the values: None takes them away. Its
    ticks lie between the turns too, where there is room; those have no label.
    """
    whole = ("mappings", [no_word(turn + 0.01, turn + 0.99) for turn in range(MOST_TURNS)])
    return (
        trend.Panel()
        .x_field("turn")
        .line_width(2)
        .show_points(looks.VisibilityMode.ALWAYS)
        .point_size(7)
        .no_value(UNKNOWN)
        .legend(_legend())
        .transformations(transformations(*steps, *in_order_of("turn")))
        .override_by_name(*column("turn", "none", ("min", None), ("max", None), whole))
    )


def ranking(steps: Sequence[tuple[float | None, str]]) -> bargauge.Panel:
    """Horizontal bars, each with its name, coloured by value."""
    return (
        bargauge.Panel()
        .orientation(looks.VizOrientation.HORIZONTAL)
        .display_mode(looks.BarGaugeDisplayMode.BASIC)
        .value_mode(looks.BarGaugeValueMode.TEXT)
        .reduce_options(_last())
        .mappings([unknown_word()])
        .no_value(UNKNOWN)
        .thresholds(known(steps))
        .min(0)
    )


MOST_TURNS: Final = 24
"""Longer sessions have no room for a tick between two turns."""


def grid(empty: str = UNKNOWN) -> table.Panel:
    """A table whose columns share the width, down to that of a short number."""
    return table.Panel().no_value(empty).min_width(75).mappings([unknown_word()])


def lines_at_thresholds() -> common.GraphThresholdsStyleConfig:
    return common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED)


def column(
    name: str, unit: str, *more: tuple[str, object]
) -> tuple[str, list[model.DynamicConfigValue]]:
    """An override of one column: its unit and more properties."""
    return name, [
        model.DynamicConfigValue(id_val=key, value=value) for key, value in (("unit", unit), *more)
    ]


DASHED: Final = ("custom.lineStyle", {"fill": "dash", "dash": [6, 6]})
"""For `column`: what may lie under another line."""


def color(fixed: str) -> tuple[str, object]:
    """For `column`: a fixed colour."""
    return "color", {"mode": "fixed", "fixedColor": fixed}


_COLOURED_CELL = ("custom.cellOptions", {"type": "color-background", "mode": "basic"})


def in_words(words: Mapping[str, tuple[str, str]]) -> tuple[tuple[str, object], ...]:
    """For `column`: values as words with their colours."""
    return ("mappings", [*value_words(words), unknown_word()]), _COLOURED_CELL


def in_steps(steps: Sequence[tuple[float | None, str]]) -> tuple[tuple[str, object], ...]:
    """For `column`: cells coloured by thresholds."""
    steps_and_grey = known(steps).build()
    return ("thresholds", steps_and_grey), ("mappings", [unknown_word()]), _COLOURED_CELL


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
