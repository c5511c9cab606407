"""A session as plain text for an HTTP client: the output of `probe` without conversation."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from exporter.report.session.text import session_report

if TYPE_CHECKING:
    from exporter.model.session import SessionResult

_WIDTH = 120


def plain_report(result: SessionResult) -> str:
    """Heading, table, losses, verdict and notes. It contains no text of a prompt or an answer."""
    prefix = result.prefix
    if prefix is not None and prefix.first_break is not None:
        bare = replace(prefix.first_break, before=None, earlier=None, later=None)
        result = replace(result, prefix=replace(prefix, first_break=bare))
    stream = io.StringIO()
    console = Console(
        file=stream, width=_WIDTH, color_system=None, highlight=False, markup=False, emoji=False
    )
    console.print(session_report(result, result.target, console, cold=False, interrupted=False))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"
