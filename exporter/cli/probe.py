"""`probe`: one session, shown turn by turn."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TextIO

import uvloop

from exporter import config, logs
from exporter.app import SCENARIOS, deadlines, engine_client, new_salt
from exporter.cli.settings import load_settings
from exporter.clock import SystemClock
from exporter.engine.scraper import Scraper
from exporter.errors import ConfigError
from exporter.probe.session import SessionHooks, SessionPlan, SessionRunner
from exporter.report.plain import HEADER, closing_lines, turn_line
from exporter.session_json import session_json
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    import argparse

    from exporter.config import Settings, Target
    from exporter.model import SessionResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_mutually_exclusive_group()
    engine.add_argument("--url", help="the engine's root, for example http://127.0.0.1:8000")
    engine.add_argument("--target", metavar="NAME", help="a target of the configuration")
    engine.add_argument(
        "--simulated", action="store_true", help="a SIMULATED engine, made for this one session"
    )
    parser.add_argument("--model", help="with --url: the model (default: the first one served)")
    parser.add_argument("--api-key-file", metavar="FILE", help="with --url: a file with its key")
    parser.add_argument("--json", action="store_true", help="print the session as JSON")
    config.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    result = uvloop.run(_probe(options))
    if options.json:
        print(json.dumps(session_json(result), indent=2))
    return 0 if result.failure is None else 1


async def _probe(options: argparse.Namespace) -> SessionResult:
    async with AsyncExitStack() as stack:
        url = options.url
        if options.simulated:
            simulator = Simulator(SimulatorSettings(port=0))
            url = (await stack.enter_async_context(simulator)).url
        settings, target = _choose(options, url)
        return await _play(settings, target, sys.stderr if options.json else sys.stdout)


def _choose(options: argparse.Namespace, url: str | None) -> tuple[Settings, Target]:
    """The target to play against: the one of --url, the one that is named, or the only one."""
    if url is not None:
        options.settings = config.collected(options) | _target_settings(options, url)
    settings = load_settings(options).settings
    quiet = settings.log.level == "info"  # the terminal belongs to the result
    logs.configure(settings.log.format, "error" if quiet else settings.log.level)
    names = [each.name for each in settings.targets]
    wanted = options.target or (names[0] if len(names) == 1 else None)
    if wanted not in names:
        known = f"the configuration has {', '.join(names)}" if names else "no target is configured"
        raise ConfigError(
            "probe needs to know which engine: give --url http://HOST:8000, --target NAME of a "
            f"configured target, or --simulated ({known})"
        )
    return settings, settings.targets[names.index(wanted)]


def _target_settings(options: argparse.Namespace, url: str) -> dict[str, str]:
    target = {"name": "probe", "url": url, "model": options.model}
    target |= {"api_key_file": options.api_key_file}
    return {"targets": json.dumps([{k: v for k, v in target.items() if v is not None}])}


async def _play(settings: Settings, target: Target, out: TextIO) -> SessionResult:
    clock = SystemClock()

    def ignore(_view: object = None) -> None:
        """One session has no loop and publishes nothing in between."""

    async with engine_client(target, settings.scrape.timeout_seconds) as client:
        scraper = Scraper(
            target.name,
            client,
            clock,
            interval_seconds=settings.scrape.interval_seconds,
            timeout_seconds=settings.scrape.timeout_seconds,
            publish=ignore,
            on_loop_failure=ignore,
        )
        plan = SessionPlan(
            target=target.name,
            kind=SCENARIOS[settings.probe.scenario],
            max_tokens=settings.probe.max_tokens,
            deadlines=deadlines(settings.probe),
        )
        print(f"{plan.kind.name} against {target.base_url}", file=out)
        print(HEADER, file=out)
        hooks = SessionHooks(on_turn=lambda facts: print(turn_line(facts), file=out, flush=True))
        result = await SessionRunner(plan, client, scraper.refresh, clock, new_salt).play(hooks)
        for line in closing_lines(result):
            print(line, file=out)
    return result
