"""What all charts share: their style, their axes and their files. The only door to matplotlib.

Figures are made without pyplot, which would keep every figure in memory.
"""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from matplotlib.axes import Axes

PictureFormat = Literal["png", "svg"]

# Okabe and Ito's colours (2008): people with any colour vision can tell them apart.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW = "#56B4E9", "#CC79A7", "#F0E442"
GREY, PALE, INK = "#767676", "#D9D9D9", "#222222"
# The sides of a comparison differ in colour, marker and dashes.
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))

_DPI = 100
_US = "vllm-cache-exporter"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
    "hatch.linewidth": 0.8,
    "text.parse_math": False,  # a model's name may have a dollar sign
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "vllm-cache-exporter",  # the same records, the same file
}


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure in the style of all charts; sizes in inches. It is cleared at the end.

    matplotlib's settings belong to the process: one thread at a time.
    """
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box is drawn
        made = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        try:
            yield made
        finally:
            made.clear()


def picture(made: Figure, form: PictureFormat) -> bytes:
    """The figure as a file, without the time at which it was drawn."""
    page = io.BytesIO()
    metadata = {"png": {"Software": _US}, "svg": {"Date": None, "Creator": _US}}[form]
    made.savefig(page, format=form, metadata=metadata)
    return page.getvalue()


def with_gaps(values: Sequence[float | None]) -> list[float]:
    """Unknown values as NaN, where matplotlib draws nothing."""
    return [float("nan") if value is None else float(value) for value in values]


def watermark(made: Figure) -> None:
    """SIMULATED across the whole picture."""
    made.text(
        0.5, 0.47, "SIMULATED", fontsize=96, fontweight="bold", color=INK, alpha=0.09,
        rotation=28, ha="center", va="center", zorder=100,
    )  # fmt: skip


def head(made: Figure, title: str, subtitle: str, banner: str | None) -> None:
    """Title and subtitle above all panels. The banner says what is wrong."""
    made.text(0.012, 0.968, title, ha="left", va="center", fontsize=15, fontweight="bold")
    lines = [(subtitle, INK)] if banner is None else [(subtitle, INK), (banner, VERMILLION)]
    for row, (line, colour) in enumerate(lines):
        made.text(
            0.012, 0.931 - 0.032 * row, line, ha="left", va="center", fontsize=10.5, color=colour,
            fontweight="bold" if colour != INK else "normal",
        )  # fmt: skip
    bottom_of_head = 0.91 if banner is None else 0.88
    engine = made.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0.0, 0.0, 1.0, bottom_of_head))  # type: ignore[call-arg]


def message(axes: Axes, sentence: str, *, high: float = 0.5) -> None:
    """A sentence in a panel about what cannot be drawn."""
    axes.text(
        0.5, high, sentence, transform=axes.transAxes, ha="center", va="center", color=INK,
        fontsize=9.5, bbox={"facecolor": "white", "edgecolor": GREY, "boxstyle": "round,pad=0.4"},
        zorder=50,
    )  # fmt: skip


def turn_axis(axes: Axes, last: int) -> None:
    """Whole turns from 1 to `last`."""
    axes.set_xlim(0.4, max(last, 1) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))
    axes.set_xlabel("turn")


def seconds_axis(axes: Axes, values: Sequence[float], *, across: bool = False) -> None:
    """Time on a logarithmic scale, in milliseconds or seconds as they fit."""
    axis = axes.xaxis if across else axes.yaxis
    (axes.set_xscale if across else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(_formatter(numbers.seconds))
    axis.set_minor_formatter(NullFormatter())
    (axes.set_xlim if across else axes.set_ylim)(min(values) / 1.6, max(values) * 1.6)


def signed_seconds_axis(axes: Axes) -> None:
    """Differences of times, in milliseconds."""
    axes.yaxis.set_major_formatter(_formatter(lambda value: f"{value * 1000:+g} ms"))


def percent_axis(axes: Axes) -> None:
    axes.set_ylim(-0.16, 1.06)  # below 0 the legend has room
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(_formatter(lambda ratio: f"{ratio * 100:.0f} %"))


def count_axis(axes: Axes) -> None:
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(_formatter(numbers.count))


def _formatter(say_it: Callable[[float], str]) -> FuncFormatter:
    return FuncFormatter(lambda value, _place: say_it(value))
