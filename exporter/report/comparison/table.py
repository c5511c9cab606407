"""A comparison for a terminal of 80 columns: heading, table, verdict, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from exporter.report.comparison.notes import comparison_notes
from exporter.wording import numbers
from exporter.wording.sentences import turns_in_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from exporter.report.comparison.facts import Comparison, Contrast, Quantity, Side

ALPHA = 0.05
_LEAST_P = 0.001
_TITLES: dict[Quantity, str] = {
    "ttft": "TTFT",
    "first_ttft": "first TTFT",
    "latency": "latency",
    "hit_ratio": "hit ratio",
}


def comparison_report(comparison: Comparison, *, interrupted: bool) -> Group:
    """The whole output."""
    lines: list[RenderableType] = [heading(comparison)]
    lines.append(Padding(comparison_table(comparison), (1, 0)))
    lines += [Text(line) for line in penalty_lines(comparison)]
    lines += [Text(line, "bold") for line in verdict(comparison, interrupted=interrupted)]
    lines += [Text(f"Note: {note}") for note in comparison_notes(comparison)]
    return Group(*lines)


def heading(comparison: Comparison) -> Text:
    """Scenario, time, and one line for each side."""
    scenario = comparison.sides[0].scenario
    plural = "" if comparison.rounds == 1 else "s"
    head = Text(
        f"{scenario}, {comparison.rounds} session{plural} each, "
        f"{numbers.moment(comparison.started_time)}",
        "bold",
    )
    for side in comparison.sides:
        engine = side.model or "unknown model"
        version = f", vLLM {side.engine_version}" if side.engine_version else ""
        head.append(f"\n  {side.name}: {engine}{version}, {side.source}", "not bold")
        if side.simulated:
            head.append(" SIMULATED", "bold reverse")
    if comparison.turns > 1:
        turns = turns_in_words(range(2, comparison.turns + 1)).capitalize()
        first = "first TTFT is that of turn 1, which is cold"
        also = "turn 1 is the same request on both sides" if comparison.cold else first
        head.append(f"\n{turns}; {also}.", "not bold")
    if comparison.simulated:
        head.append("\nSIMULATED: these numbers describe a simulator, not a model server.", "bold")
    return head


def comparison_table(comparison: Comparison) -> Table:
    """A block of rows for each quantity, one row for each side."""
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("", "median", "middle half", f"minus {comparison.sides[0].name}",
                 "95 % interval", "p"):  # fmt: skip
        table.add_column(name, justify="left" if not name else "right", header_style="bold")
    for quantity, title in _TITLES.items():
        if comparison.cold and quantity == "first_ttft":
            continue  # it is the same request on both sides
        if not any(quantity in side.spreads for side in comparison.sides):
            continue
        table.add_row(Text(title, "bold"))
        for place, side in enumerate(comparison.sides):
            contrast = comparison.contrasts[place - 1] if place else None
            table.add_row(*_cells(quantity, side, contrast))
    return table


def _cells(quantity: Quantity, side: Side, contrast: Contrast | None) -> list[str]:
    say = numbers.percent if quantity == "hit_ratio" else numbers.seconds
    known = side.spreads.get(quantity)
    name = f"  {side.name}"
    if known is None:
        return [name, numbers.UNKNOWN]
    cells = [name, say(known.median), _range(say, known.lower_quartile, known.upper_quartile)]
    found = None if contrast is None else contrast.differences.get(quantity)
    if contrast is None or found is None:
        return cells
    interval = numbers.UNKNOWN
    if found.low is not None and found.high is not None:
        interval = f"{signed(quantity, found.low)} … {signed(quantity, found.high)}"
    return [*cells, signed(quantity, found.estimate), interval, p_value(found.p)]


def _range(say: Callable[[float | None], str], low: float, high: float) -> str:
    return f"{say(low)} … {say(high)}"


def signed(quantity: Quantity, value: float) -> str:
    """A difference: seconds, or percentage points of a ratio."""
    sign = "+" if value > 0 else "-" if value < 0 else "±"
    if quantity == "hit_ratio":
        return f"{sign}{abs(value) * 100:.1f} pp"
    return f"{sign}{numbers.seconds(abs(value))}"


def _interval(low: float, high: float) -> str:
    return f"95 % interval {signed('ttft', low)} to {signed('ttft', high)}"


def p_in_words(p: float) -> str:
    return f"p {p_value(p)}" if p < _LEAST_P else f"p = {p_value(p)}"


def p_value(p: float | None) -> str:
    if p is None:
        return numbers.UNKNOWN
    return f"< {_LEAST_P}" if p < _LEAST_P else f"{p:.3f}"


def penalty_lines(comparison: Comparison) -> list[str]:
    """What a miss costs: measured if one side only missed, and by the fitted prefill cost."""
    lines = []
    for contrast in comparison.contrasts:
        if contrast.miss_seconds is not None:
            low, high = contrast.miss_seconds.low, contrast.miss_seconds.high
            interval = ""
            if low is not None and high is not None:
                interval = f" ({_interval(low, high)})"
                if low <= 0 <= high:
                    interval += ", which is no measurable difference"
            lines.append(
                f"Penalty of a miss, measured: {signed('ttft', contrast.miss_seconds.estimate)} to "
                f"the first token{interval}."
            )
    seen = set()
    for side in comparison.sides:
        penalty = side.penalty
        if penalty is None or penalty.cost in seen:
            continue
        seen.add(penalty.cost)
        lines.append(
            f"Penalty of a miss on {side.name}, by its prefill cost: "
            f"{penalty.seconds:.3g} prefill seconds (± {penalty.error_seconds:.2g}) for the "
            f"{numbers.tokens(penalty.tokens)} of a median hit, at "
            f"{penalty.cost.seconds_per_token * 1e6:.3g} µs per token."
        )
    return lines


def verdict(comparison: Comparison, *, interrupted: bool) -> list[str]:
    """One sentence on TTFT for each contrast: how much, and whether it can be chance."""
    lines = []
    if interrupted:
        lines.append(f"Interrupted: this is based on {comparison.rounds} complete rounds.")
    if comparison.cold and comparison.sides[0].missed:
        lines.append(
            "The cache served nothing, so the turns and their cold controls are the same "
            "requests: no time was saved."
        )
        return lines
    first = comparison.sides[0].name
    return lines + [_sentence(first, contrast) for contrast in comparison.contrasts]


def _sentence(first: str, contrast: Contrast) -> str:
    found = contrast.differences.get("ttft")
    if found is None:
        return f"Whether {contrast.name} is faster than {first} is unknown."
    if found.estimate == 0:
        head = f"{contrast.name} takes as long to the first token as {first}"
    else:
        word = "later" if found.estimate > 0 else "sooner"
        amount = numbers.seconds(abs(found.estimate))
        head = f"The first token of {contrast.name} comes {amount} {word} than that of {first}"
    pairs = f"{found.pairs} pair{'' if found.pairs == 1 else 's'} of sessions"
    p = contrast.adjusted_p.get("ttft")
    if p is None or found.low is None or found.high is None:
        return f"{head} in {pairs}: too few to show whether that is more than chance."
    allowed = ", corrected for the number of engines" if p != found.p else ""
    said = f"({p_in_words(p)}{allowed})"
    interval = _interval(found.low, found.high)
    if p < ALPHA:
        return f"{head} in {pairs}: more than chance {said}, {interval}."
    return f"{head} in {pairs}, which may be chance {said}: no measurable difference, {interval}."
