"""`check`: runs every test once against one engine, and says what is wrong and how to fix it."""

from __future__ import annotations

import json
import sys
import textwrap
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import uvloop
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from exporter.cli.one_engine import (
    API_SETTING,
    SESSION_SETTINGS,
    add_engine_arguments,
    add_kv_events_argument,
    open_engine,
)
from exporter.cli.parsing.parser import add_settings
from exporter.cli.pipeline import (
    add_color_argument,
    add_pipeline_arguments,
    add_quiet_argument,
    prepare,
    publish,
)
from exporter.daemon.probing import new_salt
from exporter.probe.check import NOT_TRIED, Check
from exporter.probe.session.plan import SessionHooks
from exporter.report.check import check_report_json, closing_line, finding_lines
from exporter.report.pipeline.cases import check_suite
from exporter.report.screen import console_on
from exporter.wording.findings.finding import Verdict

if TYPE_CHECKING:
    import argparse

    from exporter.cli.parsing.parser import Parser
    from exporter.wording.findings.finding import CheckReport, Finding

USAGE = "[URL] [OPTIONS]"
EXAMPLES = ("check http://127.0.0.1:8000", "check --config exporter.toml --target vllm --json")


def add_arguments(parser: Parser) -> None:
    add_engine_arguments(parser)
    add_kv_events_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    add_pipeline_arguments(parser)
    add_quiet_argument(parser, "no progress, and only the tests that failed")
    add_color_argument(parser)
    parser.epilog = (
        "Exit code: 0 when no test failed (some may be unknown), 1 when one failed, 2 for wrong "
        "usage or configuration."
    )
    add_settings(parser, *SESSION_SETTINGS, API_SETTING)


def main(options: argparse.Namespace) -> int:
    prepare(options)
    report = uvloop.run(_check(options))
    if options.json:
        print(json.dumps(check_report_json(report), indent=2))
    publish(check_suite(report), options)
    return 0 if report.healthy else 1


async def _check(options: argparse.Namespace) -> CheckReport:
    out = sys.stderr if options.json else sys.stdout
    width, progress = console_on(out).width, _Progress(shown=not options.quiet)

    not_tried = 0

    def show(finding: Finding) -> None:
        nonlocal not_tried
        if finding.evidence == NOT_TRIED:
            not_tried += 1  # one line at the end tells them all
            return
        if options.quiet and finding.verdict is not Verdict.FAIL:
            return
        progress.clear()
        for line in finding_lines(finding, width):
            print(line, file=out, flush=True)

    def next_turn(turn: int, turns: int) -> None:
        progress.say(f"one session, turn {turn} of {turns}")

    async with AsyncExitStack() as stack:
        engine = await open_engine(options, stack)
        check = Check(
            *(engine.plan, engine.requests, new_salt),
            on_finding=show,
            hooks=SessionHooks(on_turn_start=next_turn),
            max_turnover=engine.settings.max_cache_turnover_per_hour,
        )
        progress.say(f"asking {engine.url}, then one prompt three or four times")
        report = await check.run()
        progress.clear()
        if not_tried and not options.quiet:
            print(f"unknown {not_tried} more tests: {NOT_TRIED}", file=out)
        if not (options.quiet and report.healthy):
            print(textwrap.fill(closing_line(report), width), file=out)
        return report


_ERASED = Control((ControlType.CARRIAGE_RETURN,), (ControlType.ERASE_IN_LINE, 2))


class _Progress:
    """One line on standard error, if that is a terminal, until something else is written."""

    def __init__(self, *, shown: bool) -> None:
        console = console_on(sys.stderr)
        able = console.is_terminal and not console.is_dumb_terminal
        self._console = console if shown and able else None

    def say(self, text: str) -> None:
        if self._console is not None:
            self.clear()
            line = Text(text, no_wrap=True)
            line.truncate(self._console.width - 1)
            self._console.print(line, end="")

    def clear(self) -> None:
        if self._console is not None:
            self._console.control(_ERASED)
