"""`probe`: one session shown turn by turn, or several with their spread."""

from __future__ import annotations

import argparse
import json
import re
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import uvloop

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
from exporter.cli.probe.play import Wanted, play
from exporter.errors import ConfigError
from exporter.report.charts import check_chart, write_session_chart
from exporter.report.pipeline.cases import probe_suite
from exporter.report.screen import console_on
from exporter.report.session.csv import session_csv
from exporter.report.session.json import probe_json, sessions_json
from exporter.report.session.several import session_line, sessions_report
from exporter.report.session.text import closing, conclusion, session_report
from exporter.wording.limits import shortfalls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.cli.parsing.parser import Parser
    from exporter.cli.probe.play import Played
    from exporter.model.session import SessionResult

USAGE = "[URL] [OPTIONS]"
EXAMPLES = (
    "probe http://127.0.0.1:8000 --cold --chart session.png",
    "probe 127.0.0.1:8000 --sessions 5 --json --fail-under-efficiency 0.95",
)
_EPILOG = (
    "Exit code: 0 if the sessions finished and reached the ratios, 1 if not, 2 for wrong usage or "
    "configuration, 130 after Ctrl-C (what finished is printed)."
)
_MOST_SESSIONS = 1000


def add_arguments(parser: Parser) -> None:
    add_engine_arguments(parser)
    add_kv_events_argument(parser)
    parser.add_argument(
        "--sessions",
        type=_sessions,
        metavar="N",
        help="play N sessions and show median and spread (default: 1)",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="play one every probe.interval_seconds, until Ctrl-C",
    )
    parser.add_argument(
        "--cold",
        action="store_true",
        help="send each turn again without cache, to show how much TTFT it saves",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print the session as JSON")
    shape.add_argument("--csv", action="store_true", help="print the turns as CSV")
    parser.add_argument(
        "--totals", action="store_true", help="with --csv: a last line with the sums"
    )
    parser.add_argument(
        "--chart", metavar="FILE", help="draw the last session into FILE (.png or .svg)"
    )
    for name, what in (
        ("efficiency", "served / attainable"),
        ("hit-ratio", "cached / prompt"),
    ):
        parser.add_argument(
            f"--fail-under-{name}",
            type=ratio,
            metavar="RATIO",
            help=f"exit 1 if {what} is below or unknown",
        )
    add_pipeline_arguments(parser)
    add_quiet_argument(parser, "no progress, and of the result the verdict")
    add_color_argument(parser)
    parser.epilog = _EPILOG
    add_settings(parser, *SESSION_SETTINGS, API_SETTING)


def ratio(text: str) -> float:
    """A number from 0 to 1. Raises `argparse.ArgumentTypeError`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a ratio from 0 to 1, such as 0.8")
    return value


def _sessions(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= _MOST_SESSIONS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_SESSIONS}")
    return int(text)


def main(options: argparse.Namespace) -> int:
    if options.totals and not options.csv:
        raise ConfigError("--totals needs --csv: JSON and the table have the sums anyway")
    prepare(options)
    if options.chart is not None:
        check_chart(options.chart)
    played = uvloop.run(_probe(options))
    _write(played, options)
    shown = played.sessions[-1] if played.sessions else played.stopped
    if options.chart is not None and shown is not None:
        write_session_chart(options.chart, shown, interrupted=shown is played.stopped)
    limits = {
        "efficiency_ratio": options.fail_under_efficiency,
        "hit_ratio": options.fail_under_hit_ratio,
    }
    if not played.interrupted:
        publish(probe_suite(played.sessions, played.url, **limits), options)
    return _exit_code(played, options)


async def _probe(options: argparse.Namespace) -> Played:
    async with AsyncExitStack() as stack:
        engine = await open_engine(options, stack)
        wanted = Wanted(
            sessions=options.sessions or (None if options.watch else 1),
            interval_seconds=engine.settings.interval_seconds if options.watch else 0.0,
            cold=options.cold,
            quiet=options.quiet,
        )
        count = 0

        def show(result: SessionResult) -> None:
            nonlocal count
            count += 1
            if options.watch:
                _write_watched(result, engine.url, count, options)
            elif wanted.sessions != 1 and not options.quiet:
                console_on(sys.stderr).print(session_line(count, result))

        return await play(engine, wanted, show)


def _write_watched(
    result: SessionResult, url: str, number: int, options: argparse.Namespace
) -> None:
    """One session as soon as it has ended: a line of text or of JSON, or the lines of its turns."""
    if options.json:
        print(json.dumps(probe_json(result, url, interrupted=False)), flush=True)
    elif options.csv:
        _write_csv([result], options, header=number == 1)
    else:
        console_on(sys.stdout).print(session_line(number, result))


def _write(played: Played, options: argparse.Namespace) -> None:
    """Write the result as the options say. What `--watch` has written is not written again."""
    sessions = played.sessions
    if (options.watch or (options.sessions or 1) > 1) and sessions:
        if options.watch and (options.json or options.csv):
            return
        if options.json:
            shape = sessions_json(sessions, played.url, interrupted=played.interrupted)
            print(json.dumps(shape, indent=2))
        elif options.csv:
            _write_csv(sessions, options)
        else:
            out = console_on(sys.stdout)
            out.print(sessions_report(sessions, played.url, interrupted=played.interrupted))
        return
    result = sessions[-1] if sessions else played.stopped
    if result is not None:
        _write_one(result, played, options)


def _write_one(result: SessionResult, played: Played, options: argparse.Namespace) -> None:
    out, aside = console_on(sys.stdout), console_on(sys.stderr)
    interrupted = played.interrupted
    if options.json:
        print(json.dumps(probe_json(result, played.url, interrupted=interrupted), indent=2))
    elif options.csv:
        _write_csv([result], options)
    if options.quiet:
        if not (options.json or options.csv):
            out.print(conclusion(result, interrupted=interrupted))
    elif options.json or options.csv or not result.turns:
        aside.print(closing(result, interrupted=interrupted))
    else:
        out.print(
            session_report(result, played.url, out, cold=options.cold, interrupted=interrupted)
        )


def _write_csv(
    results: Sequence[SessionResult], options: argparse.Namespace, *, header: bool = True
) -> None:
    sys.stdout.flush()
    # In UTF-8, also if the terminal has another encoding.
    sys.stdout.buffer.write(session_csv(*results, header=header, totals=options.totals).encode())
    sys.stdout.buffer.flush()


def _exit_code(played: Played, options: argparse.Namespace) -> int:
    """The exit code. Says on standard error which limit was missed."""
    aside = console_on(sys.stderr)
    if played.signal is not None:
        return 128 + played.signal
    if played.unproven is not None:
        told = not (options.quiet and options.csv)  # the verdict has the remedy
        text = played.unproven.reason if told else str(played.unproven)
        aside.print(f"--cold: {text}", style="bold red")
        return 1
    missed = [line for result in played.sessions for line in _shortfalls(result, options)]
    for sentence in dict.fromkeys(missed):
        aside.print(sentence, style="bold red")
    failed = any(result.failure is not None for result in played.sessions)
    return 1 if missed or failed else 0


def _shortfalls(result: SessionResult, options: argparse.Namespace) -> list[str]:
    if result.failure is not None:
        return []
    return shortfalls(
        result,
        efficiency_ratio=options.fail_under_efficiency,
        hit_ratio=options.fail_under_hit_ratio,
    )
