"""The chart of one session: four panels that show whether its cache works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.report import drawing
from exporter.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, PALE, VERMILLION, with_gaps
from exporter.report.session.series import session_series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from exporter.model.session import SessionResult
    from exporter.report.session.series import SessionSeries

_INCHES = (11.5, 8.2)
_HALF = 0.5
_LABEL_BOX = {"facecolor": "white", "alpha": 0.85, "pad": 1.5, "edgecolor": "none"}


def draw(result: SessionResult, form: drawing.PictureFormat, *, interrupted: bool = False) -> bytes:
    """The picture of a session, finished or not, as PNG or SVG."""
    series = session_series(result, interrupted=interrupted)
    with drawing.figure(*_INCHES) as made:
        drawing.head(made, series.title, series.subtitle, series.banner)
        panels = made.subplots(2, 2)
        last = max((*series.turns, series.failed_turn or 1))
        for axes, panel in zip(panels.flat, (_hits, _prompts, _times, _served), strict=True):
            drawing.turn_axis(axes, last)
            panel(axes, series)
            if series.turns:
                _mark_failure(axes, series)
            else:
                axes.set_yticks([])
                drawing.say(axes, "no turn finished")
        if series.simulated:
            drawing.watermark(made)
        return drawing.picture(made, form)


def _hits(axes: Axes, series: SessionSeries) -> None:
    axes.set_title("Hit ratio: share of the prompt served from cache")
    drawing.percent_axis(axes)
    axes.axhline(_HALF, color=GREY, linewidth=1.2, linestyle=":", label="50 %")
    _ideal(axes, series, series.ideal)
    _line(axes, series, series.hit, BLUE, "served", marker="o")
    _say_unknown(axes, series, {"hit ratio": series.hit, "ideal": series.ideal[1:]})
    axes.legend(loc="lower right", ncols=3)


def _prompts(axes: Axes, series: SessionSeries) -> None:
    axes.set_title("Prompt tokens")
    known = [(turn, split) for turn, split in zip(series.turns, series.prompts, strict=True)
             if split is not None]  # fmt: skip
    turns = [turn for turn, _ in known]
    floor = [0] * len(known)
    for name, colour, hatch, heights in (
        ("cached", BLUE, "", [split.cached for _, split in known]),
        ("lost", VERMILLION, "///", [split.lost for _, split in known]),
        ("new", PALE, "", [split.new for _, split in known]),
        ("unknown", "white", "...", [split.unknown for _, split in known]),
    ):
        unknown = name == "unknown"
        if any(heights) or not unknown:
            axes.bar(
                turns, with_gaps([height or None for height in heights]), 0.72, floor, color=colour,
                hatch=hatch, label=name, edgecolor=GREY if unknown else "white",
            )  # fmt: skip
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    _name_losses(axes, series)
    drawing.count_axis(axes)
    if known:
        axes.set_ylim(0, max(*floor, 1) * 1.22)
        axes.legend(loc="upper left", ncols=4)
    if series.turns and len(known) < len(series.turns):
        drawing.say(axes, _unknown_sentence("prompt tokens", series.prompts, series.turns))


def _name_losses(axes: Axes, series: SessionSeries) -> None:
    for turn, split, cause in zip(series.turns, series.prompts, series.losses, strict=True):
        if split is not None and cause is not None and split.lost:
            axes.text(
                turn, split.cached + split.lost / 2, cause, rotation=90, ha="center", va="center",
                fontsize=8.5, color=INK, bbox=_LABEL_BOX,
            )  # fmt: skip


def _times(axes: Axes, series: SessionSeries) -> None:
    axes.set_title("Time to first token and latency (log scale)")
    lines: tuple[tuple[Sequence[float | None], str, str, str], ...] = (
        (series.latency, GREY, "latency", "^"),
        (series.cold_ttft, ORANGE, "TTFT without cache", "s"),
        (series.ttft, BLUE, "TTFT", "o"),
    )
    seen = [value for values, *_ in lines for value in values if value]
    for values, colour, name, marker in lines:
        if any(values):
            _line(axes, series, values, colour, name, marker=marker)
    if seen:
        drawing.seconds_axis(axes, [*seen, max(seen) * 1.6])  # room for the legend
        axes.legend(loc="upper left", ncols=3)
    _say_unknown(axes, series, {"TTFT": series.ttft})


def _served(axes: Axes, series: SessionSeries) -> None:
    axes.set_title("Tokens served from cache, cumulative")
    served = with_gaps(series.served)
    _ideal(axes, series, series.served_ideal)
    axes.fill_between(list(series.turns), served, color=BLUE, alpha=0.18, linewidth=0)
    _line(axes, series, series.served, BLUE, "served", marker="o")
    last = next((pair for pair in reversed(list(zip(series.turns, series.served, strict=True)))
                 if pair[1] is not None), None)  # fmt: skip
    if last is not None and last[1]:
        axes.annotate(
            f"{last[1]:,}", (last[0], last[1]), xytext=(0, -20), textcoords="offset points",
            ha="center", va="top", fontweight="bold", color=BLUE,
        )  # fmt: skip
    drawing.count_axis(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", ncols=2)
    else:
        axes.set_yticks([])
    if None in series.served:
        from_turn = series.turns[series.served.index(None)]
        drawing.say(
            axes, f"no sum from turn {from_turn} on: its cached tokens are unknown", high=0.3
        )


def _ideal(axes: Axes, series: SessionSeries, values: Sequence[float | None]) -> None:
    """A broad band, which stays visible below the line of what was served.

    The ideal of a first turn is 0 on every engine, so alone it is not drawn.
    """
    if any(value is not None for value in values[1:]):
        axes.plot(
            list(series.turns), with_gaps(values), color=GREEN, alpha=0.4, linewidth=8,
            solid_capstyle="round", label="ideal",
        )  # fmt: skip


def _line(
    axes: Axes,
    series: SessionSeries,
    values: Sequence[float | None],
    colour: str,
    name: str,
    *,
    marker: str,
) -> None:
    if any(value is not None for value in values):
        axes.plot(list(series.turns), with_gaps(values), color=colour, marker=marker, label=name)


def _say_unknown(
    axes: Axes, series: SessionSeries, lines: dict[str, tuple[float | None, ...]]
) -> None:
    """Says what is missing from a panel, because a gap is easily overlooked."""
    sentences = [
        _unknown_sentence(name, values, series.turns[-len(values) :])
        for name, values in lines.items()
        if None in values
    ]
    if sentences:
        drawing.say(axes, "\n".join(sentences), high=0.3)


def _unknown_sentence(name: str, values: Sequence[object], turns: Sequence[int]) -> str:
    missing = [turn for turn, value in zip(turns, values, strict=True) if value is None]
    if len(missing) == len(turns):
        return f"{name} unknown"
    shown = ", ".join(map(str, missing[:6])) + (", …" if len(missing) > 6 else "")  # noqa: PLR2004
    return f"{name} unknown in turn{'' if len(missing) == 1 else 's'} {shown}"


def _mark_failure(axes: Axes, series: SessionSeries) -> None:
    if series.failed_turn is None:
        return
    turn = series.failed_turn
    axes.axvspan(turn - 0.4, turn + 0.4, facecolor="none", edgecolor=VERMILLION, hatch="xx",
                 alpha=0.45, linewidth=0)  # fmt: skip
    axes.text(
        turn, 0.5, "failed", transform=axes.get_xaxis_transform(), rotation=90, ha="center",
        va="center", color=VERMILLION, fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
