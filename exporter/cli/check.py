"""`check`: every test once against one engine, with what is wrong and what mends it."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import uvloop

from exporter import config
from exporter.cli.one_engine import (
    add_engine_arguments,
    choose,
    plan_of,
    scraper_of,
    simulated_url,
)
from exporter.clock import SystemClock
from exporter.daemon.probing import engine_client, new_salt
from exporter.probe.check import Doctor
from exporter.report.check import checkup_json, closing_line, finding_lines

if TYPE_CHECKING:
    import argparse

    from exporter.wording.findings import CheckReport, Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.epilog = (
        "Exit code: 0 when no test failed (unknown ones may be left), 1, or 2 for usage."
    )
    config.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    checkup = uvloop.run(_check(options))
    if options.json:
        print(json.dumps(checkup_json(checkup), indent=2))
    return 0 if checkup.well else 1


async def _check(options: argparse.Namespace) -> CheckReport:
    out = sys.stderr if options.json else sys.stdout

    def tell(finding: Finding) -> None:
        for line in finding_lines(finding):
            print(line, file=out, flush=True)

    async with AsyncExitStack() as stack:
        url = await simulated_url(stack) if options.simulated else options.url
        settings, target = choose(options, url)
        client = await stack.enter_async_context(
            engine_client(target, settings.scrape.timeout_seconds)
        )
        clock = SystemClock()
        scraper = scraper_of(settings, target, client, clock)
        doctor = Doctor(
            plan_of(settings, target), client, scraper.refresh, clock, new_salt, tell=tell
        )
        checkup = await doctor.examine()
        print(closing_line(checkup), file=out)
        return checkup
