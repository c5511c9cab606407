"""`check`: runs every test once against one engine, and says what is wrong and how to fix it."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import uvloop

from exporter.cli.one_engine import (
    SESSION_SETTINGS,
    add_engine_arguments,
    add_kv_events_argument,
    open_engine,
)
from exporter.cli.parsing.parser import add_settings
from exporter.daemon.probing import new_salt
from exporter.probe.check import Check
from exporter.report.check import check_report_json, closing_line, finding_lines

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
    parser.epilog = (
        "Exit code: 0 when no test failed (some may be unknown), 1 when one failed, 2 for wrong "
        "usage or configuration."
    )
    add_settings(parser, *SESSION_SETTINGS)


def main(options: argparse.Namespace) -> int:
    report = uvloop.run(_check(options))
    if options.json:
        print(json.dumps(check_report_json(report), indent=2))
    return 0 if report.healthy else 1


async def _check(options: argparse.Namespace) -> CheckReport:
    out = sys.stderr if options.json else sys.stdout

    def show(finding: Finding) -> None:
        for line in finding_lines(finding):
            print(line, file=out, flush=True)

    async with AsyncExitStack() as stack:
        engine = await open_engine(options, stack)
        check = Check(
            *(engine.plan, engine.requests, new_salt),
            on_finding=show,
            max_turnover=engine.settings.max_cache_turnover_per_hour,
        )
        report = await check.run()
        print(closing_line(report), file=out)
        return report
