"""`probe`: one session, shown turn by turn."""

from __future__ import annotations

import argparse
import json
import random
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvloop

from exporter.cli.cold import ColdUnprovenError, stopping_if_unproven
from exporter.cli.one_engine import (
    SESSION_SETTINGS,
    add_engine_arguments,
    add_kv_events_argument,
    open_engine,
)
from exporter.cli.parsing.parser import add_settings
from exporter.cli.serving import until_signal
from exporter.clock import SystemClock
from exporter.daemon.probing import new_salt
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionHooks
from exporter.probe.session.runner import SessionRunner
from exporter.report.charts import check_chart, write_session_chart
from exporter.report.progress import SessionProgress
from exporter.report.screen import console_on
from exporter.report.session.csv import session_csv
from exporter.report.session.text import closing, session_report
from exporter.wording.limits import shortfalls
from exporter.wording.session_json import session_json

if TYPE_CHECKING:
    from exporter.cli.one_engine import EngineAccess
    from exporter.cli.parsing.parser import Parser
    from exporter.model.session import SessionResult

_TICK_SECONDS = 0.25
_EPILOG = (
    "Exit code: 0 if the session finished and reached the ratios, 1 if not, 2 for wrong usage or "
    "configuration, 130 after Ctrl-C (the finished turns are printed)."
)


@dataclass(frozen=True, slots=True)
class ShownSession:
    """A session to show. If it was stopped, `result` has the turns so far.

    `signal` is the number of the signal that stopped it, `unproven` why --cold stopped it.
    """

    url: str
    result: SessionResult
    signal: int | None = None
    unproven: ColdUnprovenError | None = None

    @property
    def interrupted(self) -> bool:
        return self.signal is not None or self.unproven is not None


USAGE = "[URL] [OPTIONS]"
EXAMPLES = (
    "probe http://127.0.0.1:8000 --cold --chart session.png",
    "probe 127.0.0.1:8000 --json --fail-under-efficiency 0.95",
)


def add_arguments(parser: Parser) -> None:
    add_engine_arguments(parser)
    add_kv_events_argument(parser)
    parser.add_argument(
        "--cold",
        action="store_true",
        help="send each turn again without cache, to show how much TTFT it saves",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print the session as JSON")
    shape.add_argument("--csv", action="store_true", help="print the turns as CSV")
    parser.add_argument("--chart", metavar="FILE", help="draw the session into FILE (.png or .svg)")
    for name, what in (
        ("efficiency", "served / attainable tokens"),
        ("hit-ratio", "cached / prompt tokens"),
    ):
        parser.add_argument(
            f"--fail-under-{name}",
            type=ratio,
            metavar="RATIO",
            help=f"exit with 1 if {what} is below it or unknown",
        )
    parser.epilog = _EPILOG
    add_settings(parser, *SESSION_SETTINGS)


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
    return write_result(uvloop.run(_probe(options)), options)


def write_result(played: ShownSession, options: argparse.Namespace) -> int:
    """Write the result as the options say, and return the exit code."""
    result, interrupted = played.result, played.interrupted
    out, aside = console_on(sys.stdout), console_on(sys.stderr)
    if options.json:
        print(json.dumps(session_json(result) | {"interrupted": interrupted}, indent=2))
    elif options.csv:
        sys.stdout.flush()
        # In UTF-8, also if the terminal has another encoding.
        sys.stdout.buffer.write(session_csv(result).encode())
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
    if played.unproven is not None:
        aside.print(f"--cold: {played.unproven}", style="bold red")
        return 1
    if result.failure is not None:
        return 1
    missed = shortfalls(
        result,
        efficiency_ratio=options.fail_under_efficiency,
        hit_ratio=options.fail_under_hit_ratio,
    )
    for sentence in missed:
        aside.print(sentence, style="bold red")
    return 1 if missed else 0


async def _probe(options: argparse.Namespace) -> ShownSession:
    async with AsyncExitStack() as stack:
        return await _play(await open_engine(options, stack), cold=options.cold)


async def _play(engine: EngineAccess, *, cold: bool) -> ShownSession:
    """Play one session. Raises `ColdUnprovenError` or `KeyboardInterrupt` if no turn finished."""
    control = ColdControl(1.0, random.random, new_salt) if cold else None
    runner = SessionRunner(engine.plan, engine.requests, new_salt, control=control)
    progress = SessionProgress(
        console_on(sys.stderr), SystemClock().monotonic, engine.plan.max_tokens, cold
    )
    on_turn = progress.turn_ended
    hooks = SessionHooks(
        on_turn_start=progress.turn_started,
        on_request=progress.request_started,
        on_token=progress.token_received,
        on_turn=stopping_if_unproven(runner, on_turn) if cold else on_turn,
    )
    played, number, unproven = None, None, None
    progress.start()
    try:
        played, number = await until_signal(
            runner.play(hooks), tick=progress.tick, tick_seconds=_TICK_SECONDS
        )
    except ColdUnprovenError as error:
        unproven = error
    finally:
        progress.stop()
    result = played or runner.so_far()
    if result is None:
        raise unproven or KeyboardInterrupt
    return ShownSession(engine.url, result, number, unproven)
