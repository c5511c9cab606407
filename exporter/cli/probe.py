"""`probe`: one session, shown turn by turn."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvloop

from exporter import config
from exporter.cli.cold import ColdUntoldError, ending_where_untold
from exporter.cli.one_engine import (
    add_engine_arguments,
    choose,
    plan_of,
    requests_of,
    scraper_of,
    simulated_url,
)
from exporter.clock import SystemClock
from exporter.daemon.probing import engine_client, new_salt
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionHooks
from exporter.probe.session.runner import SessionRunner
from exporter.report.charts import check_chart, write_session_chart
from exporter.report.progress import SessionProgress
from exporter.report.screen import screen
from exporter.report.session.csv import session_csv
from exporter.report.session.text import closing, session_report
from exporter.wording.limits import Limits, shortfalls
from exporter.wording.session_json import session_json

if TYPE_CHECKING:
    from exporter.config import Settings, Target
    from exporter.model.session import SessionResult

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TICK_SECONDS = 0.25
_EPILOG = (
    "Progress goes to standard error, the result to standard output. Exit code: 0 when the session "
    "finished and met what --fail-under-… demands, 1 when not, 2 for usage, 130 when Ctrl-C ended "
    "it (the turns that did finish are printed)."
)


@dataclass(frozen=True, slots=True)
class ShownSession:
    """A session that ended, or was ended: then `result` has the turns so far.

    `signal` is what ended it from outside, `untold` why --cold was in vain.
    """

    url: str
    result: SessionResult
    signal: int | None = None
    untold: str | None = None

    @property
    def interrupted(self) -> bool:
        return self.signal is not None or self.untold is not None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser)
    parser.add_argument(
        "--cold",
        action="store_true",
        help="send each turn once more without cache, to show what the cache saves in TTFT",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print the session as JSON")
    shape.add_argument("--csv", action="store_true", help="print the turns as CSV")
    parser.add_argument(
        "--chart", metavar="FILE", help="draw the session into FILE, a .png or .svg"
    )
    for name, what in (("efficiency", "served / ideal"), ("hit-ratio", "cached / prompt")):
        parser.add_argument(
            f"--fail-under-{name}",
            type=ratio,
            metavar="RATIO",
            help=f"exit with 1 when {what} tokens of the session are below this, or not known",
        )
    parser.epilog = _EPILOG
    config.add_arguments(parser)


def ratio(text: str) -> float:
    """A number from 0 to 1. Raises `argparse.ArgumentTypeError`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a ratio from 0 to 1, such as 0.8")
    return value


def main(options: argparse.Namespace) -> int:
    if options.chart is not None:
        check_chart(options.chart)
    return write_out(uvloop.run(_probe(options)), options)


def write_out(played: ShownSession, options: argparse.Namespace) -> int:
    """Put the result where it was asked for, and return the exit code."""
    result, interrupted = played.result, played.interrupted
    out, aside = screen(sys.stdout), screen(sys.stderr)
    if options.json:
        print(json.dumps(session_json(result) | {"interrupted": interrupted}, indent=2))
    elif options.csv:
        sys.stdout.flush()
        sys.stdout.buffer.write(session_csv(result).encode())  # UTF-8, whatever the terminal's is
    if options.json or options.csv or not result.turns:
        aside.print(closing(result, interrupted=interrupted))
    else:
        out.print(
            session_report(result, played.url, out, cold=options.cold, interrupted=interrupted)
        )
    if options.chart is not None:
        write_session_chart(options.chart, result, interrupted=interrupted)
    if played.signal is not None:
        return 128 + played.signal
    if played.untold is not None:
        aside.print(f"--cold: {played.untold}", style="bold red")
        return 1
    if result.failure is not None:
        return 1
    missed = shortfalls(result, Limits(options.fail_under_efficiency, options.fail_under_hit_ratio))
    for sentence in missed:
        aside.print(sentence, style="bold red")
    return 1 if missed else 0


async def _probe(options: argparse.Namespace) -> ShownSession:
    async with AsyncExitStack() as stack:
        url = await simulated_url(stack) if options.simulated else options.url
        settings, target = choose(options, url)
        return await _play(settings, target, cold=options.cold)


async def _play(settings: Settings, target: Target, *, cold: bool) -> ShownSession:
    clock = SystemClock()
    async with engine_client(target, settings.scrape.timeout_seconds) as client:
        scraper = scraper_of(settings, target, client, clock)
        plan = plan_of(settings, target)
        control = ColdControl(1.0, random.random, new_salt) if cold else None
        requests = requests_of(settings, scraper, client)
        runner = SessionRunner(plan, requests, new_salt, control=control)
        progress = SessionProgress(screen(sys.stderr), clock.monotonic, plan.max_tokens, cold)
        try:
            result, number = await _until_signal(runner, progress, cold=cold)
        except ColdUntoldError as error:
            left = runner.so_far()
            if left is None:
                raise
            return ShownSession(str(target.base_url), left, None, str(error))
        return ShownSession(str(target.base_url), result, number)


async def _until_signal(
    runner: SessionRunner, progress: SessionProgress, *, cold: bool
) -> tuple[SessionResult, int | None]:
    """Play one session; at a signal, what there is of it and the signal's number.

    Raises `ColdUntoldError` where it is `cold` and its controls prove nothing.
    """
    on_turn = progress.turn_ended
    hooks = SessionHooks(
        on_turn_start=progress.turn_started,
        on_request=progress.request_leaves,
        on_token=progress.token_came,
        on_turn=ending_where_untold(runner, on_turn) if cold else on_turn,
    )
    caught: list[int] = []
    session = asyncio.create_task(runner.play(hooks), name="session")

    def on_signal(number: int) -> None:
        caught.append(number)
        session.cancel()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    progress.start()
    try:
        while not session.done():
            await asyncio.wait({session}, timeout=_TICK_SECONDS)
            progress.tick()
    finally:
        progress.stop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    left = runner.so_far()
    if caught and left is not None:
        return left, caught[0]
    return session.result(), None
