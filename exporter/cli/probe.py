"""`probe`: one session, shown turn by turn."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TextIO

import uvloop

from exporter import config
from exporter.app import engine_client
from exporter.cli.one_engine import (
    add_engine_arguments,
    choose,
    plan_of,
    scraper_of,
    simulated_url,
)
from exporter.clock import SystemClock
from exporter.probe.session import SessionHooks, SessionRunner
from exporter.probing import new_salt
from exporter.report.plain import HEADER, closing_lines, turn_line
from exporter.session_json import session_json

if TYPE_CHECKING:
    import argparse

    from exporter.config import Settings, Target
    from exporter.model import SessionResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the session as JSON")
    config.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    result = uvloop.run(_probe(options))
    if options.json:
        print(json.dumps(session_json(result), indent=2))
    return 0 if result.failure is None else 1


async def _probe(options: argparse.Namespace) -> SessionResult:
    async with AsyncExitStack() as stack:
        url = await simulated_url(stack) if options.simulated else options.url
        settings, target = choose(options, url)
        return await _play(settings, target, sys.stderr if options.json else sys.stdout)


async def _play(settings: Settings, target: Target, out: TextIO) -> SessionResult:
    clock = SystemClock()
    async with engine_client(target, settings.scrape.timeout_seconds) as client:
        scraper = scraper_of(settings, target, client, clock)
        plan = plan_of(settings, target)
        print(f"{plan.kind.name} against {target.base_url}", file=out)
        print(HEADER, file=out)
        hooks = SessionHooks(on_turn=lambda facts: print(turn_line(facts), file=out, flush=True))
        result = await SessionRunner(plan, client, scraper.refresh, clock, new_salt).play(hooks)
        for line in closing_lines(result):
            print(line, file=out)
    return result
