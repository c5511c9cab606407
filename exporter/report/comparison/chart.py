"""The chart of a comparison: hit ratio and TTFT by turn, distribution of TTFT, differences."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from exporter.analysis.paired import ecdf, spread
from exporter.report import drawing
from exporter.report.comparison.table import ALPHA, p_in_words
from exporter.report.drawing import COLOURS, DASHES, GREY, INK, MARKERS, with_gaps
from exporter.report.session.series import one_line
from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from exporter.report.comparison.facts import Comparison, Reading, Side

_INCHES = (11.5, 8.2)


def draw(comparison: Comparison, form: drawing.PictureFormat) -> bytes:
    """The picture of a comparison as PNG or SVG."""
    sides = comparison.sides
    failures = sum(len(side.failures) for side in sides)
    banner = f"{failures} sessions failed and are left out" if failures else None
    with drawing.figure(*_INCHES) as made:
        drawing.head(made, _title(comparison), _subtitle(comparison), banner)
        panels = made.subplots(2, 2)
        _hits(panels[0, 0], sides, comparison.turns)
        _times(panels[0, 1], sides, comparison.turns)
        _distributions(panels[1, 0], sides)
        _differences(panels[1, 1], comparison)
        if comparison.simulated:
            drawing.watermark(made)
        return drawing.picture(made, form)


def _title(comparison: Comparison) -> str:
    engines = dict.fromkeys(
        f"{one_line(side.model or 'unknown model')} · vLLM "
        f"{one_line(side.engine_version or 'of unknown version')}"
        for side in comparison.sides
    )
    names = " against ".join(one_line(side.name) for side in comparison.sides)
    title = f"{'SIMULATED: ' if comparison.simulated else ''}{names}"
    return one_line(title) if len(engines) > 1 else f"{title} on {next(iter(engines))}"


def _subtitle(comparison: Comparison) -> str:
    plural = "" if comparison.rounds == 1 else "s"
    return (
        f"{one_line(comparison.sides[0].scenario)} · {comparison.rounds} session{plural} each · "
        f"{numbers.moment(comparison.started_time)}"
    )


def _label(side: Side) -> str:
    model = side.model or "unknown model"
    return one_line(
        f"{side.name} ({model}{' ' + side.engine_version if side.engine_version else ''})"
    )


def _by_turn(side: Side, turns: int, value: Callable[[Reading], float | None]) -> list[list[float]]:
    """The known values of each turn 1…, over all sessions."""
    found: list[list[float]] = [[] for _ in range(turns)]
    for one in side.rounds:
        for reading in one or ():
            known = value(reading)
            if known is not None:
                found[reading.turn - 1].append(known)
    return found


def _curve(axes: Axes, place: int, side: Side, values: list[list[float]]) -> bool:
    """Medians as a line, the middle half as a band. False if nothing is known."""
    numbers = list(range(1, len(values) + 1))
    spreads = [spread(each) for each in values]
    if not any(spreads):
        return False
    axes.fill_between(
        numbers,
        with_gaps([None if each is None else each.lower_quartile for each in spreads]),
        with_gaps([None if each is None else each.upper_quartile for each in spreads]),
        color=COLOURS[place % len(COLOURS)], alpha=0.18, linewidth=0,
    )  # fmt: skip
    axes.plot(
        numbers, with_gaps([None if each is None else each.median for each in spreads]),
        label=_label(side), **_look(place),
    )  # fmt: skip
    return True


def _look(place: int) -> dict[str, Any]:
    """Colour, marker and dashes of the side at `place`. Each of them alone is unique."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place % len(DASHES)],
    }


def _hits(axes: Axes, sides: Sequence[Side], turns: int) -> None:
    axes.set_title("Hit ratio: share of the prompt served from cache")
    drawing.turn_axis(axes, turns)
    drawing.percent_axis(axes)
    axes.axhline(0.5, color=GREY, linewidth=1.2, linestyle=":")
    axes.text(1, 0.515, "50 %", color=GREY, va="bottom", ha="center")
    unknown = [
        side.name
        for place, side in enumerate(sides)
        if not _curve(axes, place, side, _by_turn(side, turns, lambda reading: reading.hit_ratio))
    ]
    if unknown:
        drawing.message(axes, f"unknown: {one_line(', '.join(unknown))}", high=0.3)
    if len(unknown) < len(sides):
        axes.legend(loc="lower right", ncols=2)


def _times(axes: Axes, sides: Sequence[Side], turns: int) -> None:
    axes.set_title("Time to first token by turn: median and middle half")
    drawing.turn_axis(axes, turns)
    values = [_by_turn(side, turns, lambda reading: reading.ttft_seconds) for side in sides]
    for place, (side, each) in enumerate(zip(sides, values, strict=True)):
        _curve(axes, place, side, each)
    halves = [spread(turn) for each in values for turn in each]
    seen = [
        edge
        for half in halves
        if half is not None
        for edge in (half.lower_quartile, half.upper_quartile)
        if edge > 0
    ]
    if not seen:
        drawing.message(axes, "TTFT unknown")
        return
    drawing.seconds_axis(axes, [*seen, max(seen) * 1.5])
    axes.legend(loc="upper left", ncols=2)


def _distributions(axes: Axes, sides: Sequence[Side]) -> None:
    axes.set_title("Distribution of TTFT in turns 2 and later (ECDF)")
    axes.set_ylim(0, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_ylabel("share of turns not slower")
    axes.grid(visible=True, axis="x")
    seen = []
    for place, side in enumerate(sides):
        values = side.ttfts
        if not values:
            continue
        seen += values
        steps = ecdf(values)
        axes.step(
            [steps[0][0], *(value for value, _ in steps)], [0.0, *(share for _, share in steps)],
            where="post", label=one_line(f"{side.name}: median {numbers.seconds(median(values))}"),
            color=COLOURS[place % len(COLOURS)], linestyle=DASHES[place % len(DASHES)],
        )  # fmt: skip
    if not seen:
        drawing.message(axes, "TTFT unknown")
        return
    drawing.seconds_axis(axes, seen, across=True)
    axes.legend(loc="best")


def _differences(axes: Axes, comparison: Comparison) -> None:
    """One dot for each round, and the estimate with its interval."""
    first = comparison.sides[0]
    axes.set_title(f"TTFT minus that of {one_line(first.name)}, per pair of sessions")
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xlim(-0.6, len(comparison.contrasts) - 0.4)
    axes.set_xticks(
        range(len(comparison.contrasts)), [one_line(each.name) for each in comparison.contrasts]
    )
    drawing.signed_seconds_axis(axes)
    for place, contrast in enumerate(comparison.contrasts):
        found = contrast.differences.get("ttft")
        if found is None:
            axes.text(place, 0, "unknown", ha="center", va="bottom")
            continue
        colour = COLOURS[(place + 1) % len(COLOURS)]
        dots = contrast.ttft_by_round
        shift = [0.18 * (n + 1) / (len(dots) + 1) - 0.28 for n in range(len(dots))]
        axes.plot([place + each for each in shift], dots, "o", color=colour, alpha=0.55)
        axes.plot([place + 0.1], [found.estimate], "D", color=colour, markersize=8)
        sign = "+" if found.estimate > 0 else ""
        said = f"{sign}{found.estimate * 1000:.3g} ms"
        if found.low is not None and found.high is not None:
            axes.plot([place + 0.1] * 2, [found.low, found.high], color=colour, linewidth=3)
            said += f"\n95 %: {found.low * 1000:.3g} … {found.high * 1000:.3g} ms"
        p = contrast.adjusted_p.get("ttft")
        said += f"\n{found.pairs} pairs" + (
            ", too few to tell" if p is None else f", {p_in_words(p)}"
        )
        if p is not None and p >= ALPHA:
            said += "\nno measurable difference"
        axes.annotate(
            said, (place + 0.1, found.estimate), xytext=(12, 0), textcoords="offset points",
            va="center", color=INK,
        )  # fmt: skip
    low, high = axes.get_ylim()
    margin = 0.12 * max(high - low, 1e-6)
    axes.set_ylim(min(low, 0.0) - margin, max(high, 0.0) + margin)
