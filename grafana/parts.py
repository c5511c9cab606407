"""The parts of every dashboard: its frame, its queries, and the settings that all panels share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from grafana_foundation_sdk.builders import (
    barchart,
    bargauge,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
    trend,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana import names
from grafana.expressions import CONTAINER_RESTARTED, ENGINE_RESTARTED, FULL_SESSIONS, TARGET
from mixin.settings import chosen
from mixin.words import bucket, number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from grafana_foundation_sdk.cog.builder import Builder

PanelT = TypeVar(
    "PanelT",
    barchart.Panel,
    bargauge.Panel,
    heatmap.Panel,
    stat.Panel,
    statetimeline.Panel,
    table.Panel,
    timeseries.Panel,
    trend.Panel,
)
Transformation = tuple[str, dict[str, object]]

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
WINDOWS: Final = "5m,15m,1h,6h,1d"

RATIO: Final = "percentunit"
SECONDS: Final = "s"
COUNT: Final = "short"
TOKENS: Final = "si:tok"  # our own unit, with Grafana's SI prefixes
TOKENS_PER_SECOND: Final = "si:tok/s"

UNKNOWN: Final = "unknown"
GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "#808080"
_HIT_RATIO: Final = chosen().hit_ratio
_EFFICIENCY: Final = chosen().efficiency
HIT_RATIO_STEPS: Final = ((None, RED), (_HIT_RATIO.low, ORANGE), (_HIT_RATIO.good, GREEN))
HIT_RATIO_LINES: Final = f"lines at {number(_HIT_RATIO.low)} and {number(_HIT_RATIO.good)}"
_TTFT, _USERS_TTFT = chosen().ttft, chosen().users_ttft
TTFT_BUCKET: Final = bucket(_TTFT.bound_seconds)
TTFT_BUDGET: Final = percent(1 - _TTFT.objective_ratio)
TTFT_STEPS: Final = ((None, GREEN), (_TTFT.bound_seconds, RED))
TTFT_LINE: Final = f"a line at the objective's {number(_TTFT.bound_seconds)} s"
USERS_TTFT_BUCKET: Final = bucket(_USERS_TTFT.bound_seconds)
USERS_TTFT_BUDGET: Final = percent(1 - _USERS_TTFT.objective_ratio)
USERS_TTFT_STEPS: Final = ((None, GREEN), (_USERS_TTFT.bound_seconds, RED))
USERS_TTFT_LINE: Final = f"a line at the objective's {number(_USERS_TTFT.bound_seconds)} s"
EFFICIENCY_STEPS: Final = ((None, RED), (_EFFICIENCY.low, ORANGE), (_EFFICIENCY.good, GREEN))


def query(ref: str, expr: str, legend: str = "{{target}}") -> prometheus.Dataquery:
    """A query over the dashboard's time."""
    made = prometheus.Dataquery().ref_id(ref).datasource(SOURCE).expr(expr)
    return made.legend_format(legend).range()


def now(ref: str, expr: str, legend: str = "{{target}}") -> prometheus.Dataquery:
    """A query for the last value only."""
    return query(ref, expr, legend).instant()


def rows(ref: str, expr: str) -> prometheus.Dataquery:
    """The last values as a table: a column per label, and the column `Value #ref`."""
    return now(ref, expr).format(PromQueryFormat.TABLE)


def buckets(expr: str) -> prometheus.Dataquery:
    return query("A", expr, "{{le}}").format(PromQueryFormat.HEATMAP)


def dress(
    panel: PanelT,
    title: str,
    description: str,
    unit: str,
    size: tuple[int, int],
    *queries: prometheus.Dataquery,
) -> PanelT:
    """Set what every panel needs. `size` is width and height on Grafana's grid of 24 columns."""
    width, height = size
    return (
        panel.title(title)
        .description(description)
        .unit(unit)
        .datasource(SOURCE)
        .span(width)
        .height(height)
        .targets(list(queries))
    )


def thresholds(steps: Sequence[tuple[float | None, str]]) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def unknown_word(text: str = UNKNOWN) -> model.SpecialValueMap:
    """The word for a value that is not there. It is grey: green or red would be a guess."""
    result = model.ValueMappingResult(text=text, color=GREY, index=0)
    options = model.DashboardSpecialValueMapOptions(
        match=model.SpecialValueMatch.NULL_AND_NAN, result=result
    )
    return model.SpecialValueMap(options=options)


def known(steps: Sequence[tuple[float | None, str]]) -> build.ThresholdsConfig:
    """Thresholds from 0 on. Grafana gives the first step to a value that is not there: grey."""
    (_, lowest), *higher = steps
    return thresholds(((None, GREY), (0, lowest), *higher))


def by_threshold() -> build.FieldColor:
    return build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)


def fixed(color: str) -> build.FieldColor:
    return build.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color(color)


def value_words(words: Mapping[str, tuple[str, str]]) -> list[model.ValueMapping]:
    """Values as text: a value's text and colour."""
    options = {
        value: model.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(words.items())
    }
    return [model.ValueMap(options=options)]


def no_word(start: float, end: float) -> model.RangeMap:
    """Values from start to end without a text."""
    nothing = model.ValueMappingResult(text=" ", index=0)
    options = model.DashboardRangeMapOptions(from_val=start, to=end, result=nothing)
    return model.RangeMap(options=options)


def any_word(color: str) -> model.RegexMap:
    """Every text as it is, in a colour. The last of several mappings."""
    result = model.ValueMappingResult(color=color, index=0)
    return model.RegexMap(options=model.DashboardRegexMapOptions(pattern=".*", result=result))


def transformations(*steps: Transformation) -> list[model.DataTransformerConfig]:
    return [model.DataTransformerConfig(id_val=name, options=options) for name, options in steps]


def joined(field: str, columns: Mapping[str, str]) -> tuple[Transformation, Transformation]:
    """Queries as rows side by side: one row per value of `field`, columns named and in order."""
    order = {name: index for index, name in enumerate((field, *columns))}
    return (
        ("joinByField", {"byField": field, "mode": "outer"}),
        (
            "organize",
            {
                # Each query has its own time column; the join numbers them.
                "excludeByName": {f"Time {n}": True for n in range(1, len(columns) + 1)}
                | {"Time": True},
                "indexByName": order,
                "renameByName": dict(columns),
            },
        ),
    )


def labels(*columns: str) -> Transformation:
    """The labels of a series that is always 1, as columns in this order."""
    order = {name: index for index, name in enumerate(columns)}
    hidden = {"Time": True, "Value": True}
    return "organize", {"excludeByName": hidden, "indexByName": order, "renameByName": {}}


def runbook(title: str, page: str) -> build.DashboardLink:
    """A link to a runbook, at the corner of a panel."""
    return (
        build.DashboardLink(title)
        .type(model.DashboardLinkType.LINK)
        .url(f"{names.RUNBOOKS_URL}/{page}")
        .target_blank(True)
    )


def frame(
    title: str, uid: names.Uid, description: str, *, one_target: bool = False
) -> build.Dashboard:
    """A dashboard without panels: variables, links, annotations."""
    return (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([names.TAG] if one_target else [names.TAG, names.SEVERAL_TARGETS])
        .readonly()  # provisioned: change the script instead
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables(
            [
                _datasource(),
                _target(one_target=one_target),
                *([_scenario()] if one_target else []),
                _window(),
                _exporter(),
                _filters(),
            ]
        )
        .annotations([_container_restarts(), _engine_restarts()])
        .links(
            [
                _other_dashboards(),
                *([] if one_target else [_session()]),
                _runbooks(),
                _exporter_page(),
            ]
        )
    )


def in_rows(
    board: build.Dashboard, panels: Mapping[str, Sequence[Builder[model.Panel]]]
) -> model.Dashboard:
    """The dashboard with its panels under headings. Panels fill lines of 24 columns."""
    for heading, below in panels.items():
        # The panels come after the row, not inside it: Grafana hides panels of a closed row.
        board = board.with_row(build.Row(heading))
        for panel in below:
            board = board.with_panel(panel)
    return board.build()


def _datasource() -> build.DatasourceVariable:
    return (
        build.DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes the exporter.")
        .type("prometheus")
        .current(model.VariableOption(text="Prometheus", value=names.DATASOURCE_UID))
    )


def _target(*, one_target: bool) -> build.QueryVariable:
    variable = (
        build.QueryVariable("target")
        .label("Target")
        .description("The engines, with their names from the exporter's configuration.")
        .datasource(SOURCE)
        .query("label_values(vllm_probe_sessions_total, target)")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.NATURAL_ASC)
    )
    if one_target:
        return variable
    everything = model.VariableOption(text=["All"], value=["$__all"], selected=True)
    return variable.multi(True).include_all(True).current(everything)


def _scenario() -> build.QueryVariable:
    return (
        build.QueryVariable("scenario")
        .label("Scenario")
        .description("The scenarios that the exporter plays against this engine in rotation.")
        .datasource(SOURCE)
        .query(f"label_values(vllm_probe_scenario_up{{{TARGET}, {FULL_SESSIONS}}}, scenario)")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.NATURAL_ASC)
    )


def _window() -> build.IntervalVariable:
    return (
        build.IntervalVariable("window")
        .label("Averaged over")
        .description("Sessions are a minute or more apart. A shorter window would contain none.")
        .values(WINDOWS)
        .current(model.VariableOption(text="15m", value="15m", selected=True))
    )


def _exporter() -> build.TextBoxVariable:
    return (
        build.TextBoxVariable("exporter")
        .label("Exporter")
        .description("The exporter's address in your browser: its page and the runbooks.")
        .default_value(names.EXPORTER_URL)
        .current(model.VariableOption(text=names.EXPORTER_URL, value=names.EXPORTER_URL))
    )


def _filters() -> build.AdHocVariable:
    """Grafana adds what one chooses to every query of the data source."""
    return (
        build.AdHocVariable("filters")
        .label("Filters")
        .description("Filters by labels of targets, such as team, cluster or gpu. In every panel.")
        .datasource(SOURCE)
    )


def _annotation(name: str, color: str, expr: str, labels: str, text: str) -> build.AnnotationQuery:
    return (
        build.AnnotationQuery()
        .name(name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(color)
        .expr(expr)
        .step("1m")
        .title_format("{{target}}")
        .text_format(text)
        .tag_keys(labels.replace(" ", ""))
    )


def _container_restarts() -> build.AnnotationQuery:
    return _annotation(
        "Container restarts",
        RED,
        CONTAINER_RESTARTED,
        "target, reason",
        "container restarted: {{reason}}",
    )


def _engine_restarts() -> build.AnnotationQuery:
    return _annotation(
        "Engine restarts",
        ORANGE,
        ENGINE_RESTARTED,
        "target",
        "engine process restarted with an empty cache",
    )


def _other_dashboards() -> build.DashboardLink:
    return (
        build.DashboardLink("vLLM cache")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([names.SEVERAL_TARGETS])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )


def _session() -> build.DashboardLink:
    """By itself: Session shows one target and cannot take over several."""
    return (
        build.DashboardLink("Session anatomy")
        .type(model.DashboardLinkType.LINK)
        .icon("dashboard")
        .tooltip("The sessions of one target, turn by turn")
        .url(names.session_url())
        .keep_time(True)
    )


def _exporter_page() -> build.DashboardLink:
    return (
        build.DashboardLink("Exporter")
        .type(model.DashboardLinkType.LINK)
        .icon("external link")
        .tooltip("The exporter's page: each target with evidence and advice")
        .url("${exporter}/")
        .target_blank(True)
    )


def _runbooks() -> build.DashboardLink:
    return (
        build.DashboardLink("Runbooks")
        .type(model.DashboardLinkType.LINK)
        .icon("doc")
        .tooltip("What each alert means, how to check it, what to do")
        .url(f"{names.RUNBOOKS_URL}/")
        .target_blank(True)
    )
