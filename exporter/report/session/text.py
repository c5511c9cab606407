"""The final output of `probe`: heading, table, losses, verdict, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from exporter.report.session.table import heading, turn_table
from exporter.wording.verdict import failure_in_words, loss_lines, notes, verdict

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from exporter.model.session import SessionResult


def session_report(
    result: SessionResult, url: str, console: Console, *, cold: bool, interrupted: bool
) -> Group:
    """The whole output, laid out for `console`."""
    options = console.options
    table = turn_table(
        result.turns, width=options.max_width, ascii_only=options.ascii_only, cold=cold
    )
    return Group(
        heading(result, url),
        "",
        table,
        "",
        *(Text(line, "yellow") for line in loss_lines(result)),
        closing(result, interrupted=interrupted),
    )


def conclusion(result: SessionResult, *, interrupted: bool) -> str:
    """The verdict as one text, also for a session without a finished turn."""
    if result.turns:
        return verdict(result, interrupted=interrupted)
    if interrupted:
        return "Interrupted before the first turn finished: there is nothing to show."
    return failure_in_words(result)


def closing(result: SessionResult, *, interrupted: bool) -> Group:
    """The verdict and the notes. If no turn finished, what went wrong."""
    said = conclusion(result, interrupted=interrupted)
    lines: list[RenderableType] = [Text(said, "bold red" if result.failure else "bold")]
    return Group(*lines, *(Text(f"Note: {note}") for note in notes(result)))
