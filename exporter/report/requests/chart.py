"""The chart of a recording: the tokens of each request, by what could become of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from exporter.analysis.requests.totals import findings_of, totals_of
from exporter.report import drawing
from exporter.report.drawing import BLUE, ORANGE, PALE, PURPLE, VERMILLION, YELLOW
from exporter.wording import numbers
from exporter.wording import requests as words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from exporter.model.explained import ChangeReason, ExplainedRecording, ExplainedRequest

_INCHES = (11.5, 5.6)
_REASONS = ((VERMILLION, "///"), (ORANGE, "\\\\\\"), (PURPLE, "..."), (YELLOW, "xxx"))
"""Colours and hatches of the most expensive reasons; the last is for all others."""
_NARROW = 40
"""Requests from which on bars have no gaps."""


def draw(found: ExplainedRecording, form: drawing.PictureFormat) -> bytes:
    """A bar for each request: reusable, changed by reason, and new tokens."""
    totals = totals_of(found.requests)
    said = words.conclusion(totals, estimated=found.estimated)
    with drawing.figure(*_INCHES) as made:
        drawing.head(made, f"What can be reused of {found.source}", said, None)
        axes = made.subplots()
        _bars(axes, found)
        axes.set_ylabel("prompt tokens" + (" (estimated)" if found.estimated else ""))
        axes.set_xlabel("request")
        drawing.count_axis(axes)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True, min_n_ticks=1))
        axes.set_xlim(0.4, len(found.requests) + 0.6)
        handles, labels = axes.get_legend_handles_labels()
        made.legend(handles, labels, loc="outside lower center", ncols=4)
        return drawing.picture(made, form)


def _bars(axes: Axes, found: ExplainedRecording) -> None:
    places = range(1, len(found.requests) + 1)
    floor = [0] * len(found.requests)
    edge = "white" if len(found.requests) < _NARROW else "none"
    width = 0.8 if len(found.requests) < _NARROW else 1.0
    for name, colour, hatch, heights in _parts(found.requests):
        axes.bar(
            places, heights, width, floor, label=name, color=colour, hatch=hatch, edgecolor=edge,
            linewidth=0.5,
        )  # fmt: skip
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    cached = [] if found.replayed is None else [one.cached_tokens for one in found.replayed]
    if cached:
        axes.plot(
            places, drawing.with_gaps(cached), color=drawing.INK, marker="_", linestyle="none",
            markersize=9, label="served in the replay",
        )  # fmt: skip


def _parts(
    requests: Sequence[ExplainedRequest],
) -> list[tuple[str, str, str, list[int]]]:
    """Name, colour, hatch and the tokens in each request, from below."""
    parts = [("reusable", BLUE, "", [one.reusable_tokens for one in requests])]
    reasons = list(dict.fromkeys(one.change.reason for one in findings_of(requests)))
    shown, others = reasons[: len(_REASONS) - 1], set(reasons[len(_REASONS) - 1 :])
    for reason, (colour, hatch) in zip(shown, _REASONS, strict=False):
        heights = [_changed(one, {reason}) for one in requests]
        parts.append((f"changed: {numbers.spaced(reason)}", colour, hatch, heights))
    if others:
        name = f"changed: {numbers.spaced(others.pop()) if len(others) == 1 else 'other reasons'}"
        left = set(reasons) - set(shown)
        heights = [_changed(one, left) for one in requests]
        parts.append((name, *_REASONS[-1], heights))
    return [*parts, ("new", PALE, "", [one.new_tokens for one in requests])]


def _changed(one: ExplainedRequest, reasons: set[ChangeReason]) -> int:
    return one.changed_tokens if one.change is not None and one.change.reason in reasons else 0
