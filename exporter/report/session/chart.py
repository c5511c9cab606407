"""The chart of one session: four panels that show whether its cache works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.report import drawing
from exporter.report.drawing import BLUE, GREEN, GREY, INK, ORANGE, PALE, SKY, VERMILLION, with_gaps
from exporter.report.session.series import (
    attainable_differs,
    banner,
    one_line,
    prompt_split,
    running_sum,
    title,
)
from exporter.wording import numbers
from exporter.wording.reuse_rules import GIVEN_UP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from exporter.model.session import SessionResult, TurnFacts

    Turns = Sequence[TurnFacts]

_INCHES = (11.5, 8.2)
_HALF = 0.5
_LABEL_BOX = {"facecolor": "white", "alpha": 0.85, "pad": 1.5, "edgecolor": "none"}


def draw(result: SessionResult, form: drawing.PictureFormat, *, interrupted: bool = False) -> bytes:
    """The picture of a session, finished or not, as PNG or SVG."""
    failed = result.failed_turn if result.failure is not None else None
    subtitle = f"{one_line(result.scenario)} · {numbers.moment(result.started_time)}"
    with drawing.figure(*_INCHES) as made:
        drawing.head(made, title(result), subtitle, banner(result, interrupted=interrupted))
        panels = made.subplots(2, 2)
        last = max((*(turn.index for turn in result.turns), failed or 1))
        for axes, panel in zip(panels.flat, (_hits, _prompts, _times, _served), strict=True):
            drawing.turn_axis(axes, last)
            panel(axes, result.turns)
            if not result.turns:
                axes.set_yticks([])
                drawing.message(axes, "no turn finished")
            elif failed is not None:
                _mark_failure(axes, failed)
        if result.simulated:
            drawing.watermark(made)
        return drawing.picture(made, form)


def _hits(axes: Axes, turns: Turns) -> None:
    axes.set_title("Hit ratio: share of the prompt served from cache")
    drawing.percent_axis(axes)
    axes.axhline(_HALF, color=GREY, linewidth=1.2, linestyle=":", label="50 %")
    ideal = [turn.ideal_hit_ratio for turn in turns]
    hit = [turn.hit_ratio for turn in turns]
    attainable = [turn.attainable_hit_ratio for turn in turns]
    _ideal(axes, turns, ideal)
    _attainable(axes, turns, attainable)
    _line(axes, turns, hit, BLUE, "served", marker="o")
    _say_unknown(axes, turns, {"hit ratio": hit, "ideal": ideal[1:]})
    axes.legend(loc="lower right", ncols=4)


def _prompts(axes: Axes, turns: Turns) -> None:
    axes.set_title("Prompt tokens")
    splits = [prompt_split(turn) for turn in turns]
    known = [(turn, split) for turn, split in zip(turns, splits, strict=True) if split is not None]
    floor = [0] * len(known)
    for name, colour, hatch, edge, heights in (
        ("cached", BLUE, "", "white", [split.cached for _, split in known]),
        ("lost", VERMILLION, "///", "white", [split.lost for _, split in known]),
        # A white edge would hide a block of 16 tokens.
        (GIVEN_UP, SKY, "", SKY, [split.given_up for _, split in known]),
        ("new", PALE, "", "white", [split.new for _, split in known]),
        ("unknown", "white", "...", GREY, [split.unknown for _, split in known]),
    ):
        if any(heights) or name not in ("unknown", GIVEN_UP):
            axes.bar(
                [turn.index for turn, _ in known],
                with_gaps([height or None for height in heights]), 0.72, floor, color=colour,
                hatch=hatch, label=name, edgecolor=edge,
            )  # fmt: skip
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    for turn, split in known:
        if turn.loss is not None and split.lost:
            axes.text(
                turn.index, split.cached + split.lost / 2, numbers.spaced(turn.loss.cause),
                rotation=90, ha="center", va="center", fontsize=8.5, color=INK, bbox=_LABEL_BOX,
            )  # fmt: skip
    drawing.count_axis(axes)
    if known:
        two_rows = attainable_differs(turns)  # the longer legend needs them
        axes.set_ylim(0, max(*floor, 1) * (1.34 if two_rows else 1.22))
        axes.legend(loc="upper left", ncols=3 if two_rows else 4)
    if turns and len(known) < len(turns):
        drawing.message(axes, _unknown_sentence("prompt tokens", splits, turns))


def _times(axes: Axes, turns: Turns) -> None:
    axes.set_title("Time to first token and latency (log scale)")
    lines: tuple[tuple[Sequence[float | None], str, str, str], ...] = (
        ([turn.latency_seconds for turn in turns], GREY, "latency", "^"),
        ([turn.cold_ttft_seconds for turn in turns], ORANGE, "TTFT without cache", "s"),
        ([turn.ttft_seconds for turn in turns], BLUE, "TTFT", "o"),
    )
    seen = [value for values, *_ in lines for value in values if value]
    for values, colour, name, marker in lines:
        if any(values):
            _line(axes, turns, values, colour, name, marker=marker)
    if seen:
        drawing.seconds_axis(axes, [*seen, max(seen) * 1.6])  # room for the legend
        axes.legend(loc="upper left", ncols=3)
    _say_unknown(axes, turns, {"TTFT": [turn.ttft_seconds for turn in turns]})


def _served(axes: Axes, turns: Turns) -> None:
    axes.set_title("Tokens served from cache, cumulative")
    served = running_sum([turn.cached_tokens for turn in turns])
    _ideal(axes, turns, running_sum([turn.ideal_cached_tokens for turn in turns]))
    _attainable(axes, turns, running_sum([turn.attainable_cached_tokens for turn in turns]))
    axes.fill_between(_numbers(turns), with_gaps(served), color=BLUE, alpha=0.18, linewidth=0)
    _line(axes, turns, served, BLUE, "served", marker="o")
    known = [pair for pair in zip(_numbers(turns), served, strict=True) if pair[1]]
    if known:
        turn, total = known[-1]
        axes.annotate(
            f"{total:,}", (turn, total or 0), xytext=(0, -20), textcoords="offset points",
            ha="center", va="top", fontweight="bold", color=BLUE,
        )  # fmt: skip
    drawing.count_axis(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", ncols=3)
    else:
        axes.set_yticks([])
    if None in served:
        from_turn = turns[served.index(None)].index
        drawing.message(
            axes, f"no sum from turn {from_turn} on: its cached tokens are unknown", high=0.3
        )


def _numbers(turns: Turns) -> list[int]:
    return [turn.index for turn in turns]


def _ideal(axes: Axes, turns: Turns, values: Sequence[float | None]) -> None:
    _band(axes, turns, values, GREEN, "ideal")


def _attainable(axes: Axes, turns: Turns, values: Sequence[float | None]) -> None:
    """Drawn only where the engine's reuse rule gives up tokens; else it is the ideal."""
    if attainable_differs(turns):
        _band(axes, turns, values, SKY, "attainable")


def _band(axes: Axes, turns: Turns, values: Sequence[float | None], colour: str, name: str) -> None:
    """A broad band, which stays visible below the line of what was served.

    The value of a first turn is 0 on every engine, so alone it is not drawn.
    """
    if any(value is not None for value in values[1:]):
        axes.plot(
            _numbers(turns), with_gaps(values), color=colour, alpha=0.4, linewidth=8,
            solid_capstyle="round", label=name,
        )  # fmt: skip


def _line(
    axes: Axes,
    turns: Turns,
    values: Sequence[float | None],
    colour: str,
    name: str,
    *,
    marker: str,
) -> None:
    if any(value is not None for value in values):
        axes.plot(_numbers(turns), with_gaps(values), color=colour, marker=marker, label=name)


def _say_unknown(axes: Axes, turns: Turns, lines: dict[str, list[float | None]]) -> None:
    """Says what is missing from a panel, because a gap is easily overlooked."""
    sentences = [
        _unknown_sentence(name, values, turns[-len(values) :])
        for name, values in lines.items()
        if None in values
    ]
    if sentences:
        drawing.message(axes, "\n".join(sentences), high=0.3)


def _unknown_sentence(name: str, values: Sequence[object], turns: Turns) -> str:
    missing = [turn.index for turn, value in zip(turns, values, strict=True) if value is None]
    if len(missing) == len(turns):
        return f"{name} unknown"
    shown = ", ".join(map(str, missing[:6])) + (", …" if len(missing) > 6 else "")  # noqa: PLR2004
    return f"{name} unknown in turn{'' if len(missing) == 1 else 's'} {shown}"


def _mark_failure(axes: Axes, turn: int) -> None:
    axes.axvspan(turn - 0.4, turn + 0.4, facecolor="none", edgecolor=VERMILLION, hatch="xx",
                 alpha=0.45, linewidth=0)  # fmt: skip
    axes.text(
        turn, 0.5, "failed", transform=axes.get_xaxis_transform(), rotation=90, ha="center",
        va="center", color=VERMILLION, fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
