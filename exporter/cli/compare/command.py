"""`compare`: several engines, saved results, or one engine with and without its cache."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from exporter import config
from exporter.analysis.paired import ENOUGH_PAIRS
from exporter.cli.compare.play import (
    Player,
    play_rounds,
    players_of,
    show_nothing,
    show_progress,
)
from exporter.cli.compare.restart import play_restarted
from exporter.cli.one_engine import (
    API_SETTING,
    SESSION_SETTINGS,
    add_engine_arguments,
    add_targets,
    choose_target,
    quiet_logs,
    simulated_url,
    with_key_of_environment,
)
from exporter.cli.parsing.parser import add_settings
from exporter.cli.pipeline import add_color_argument, add_quiet_argument, prepare
from exporter.cli.probe.cold import ColdUnprovenError
from exporter.cli.serving import until_signal
from exporter.cli.settings import load_settings
from exporter.clock import SystemClock
from exporter.container.decide.records import DockerError
from exporter.container.launching import container_of
from exporter.errors import ConfigError, ExporterError
from exporter.model.session import Notice
from exporter.report.charts import check_chart, write_comparison_chart
from exporter.report.comparison.facts import Comparison, Side, cold_sides, compare, side_of
from exporter.report.comparison.json import comparison_json
from exporter.report.comparison.table import comparison_report, verdict
from exporter.report.saved import check_same_scenario, read_sessions
from exporter.report.screen import console_on
from exporter.wording.notices import ADVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.cli.parsing.parser import Parser
    from exporter.config import Settings, Target
    from exporter.model.session import SessionResult

_EPILOG = (
    "Exit code: 0 if every session finished and TTFT could be compared, 1 if not, 2 for wrong "
    "usage or configuration, 130 after Ctrl-C (the complete rounds are printed)."
)
_MOST_SESSIONS = 1000


@dataclass(frozen=True, slots=True)
class Source:
    """One side of the comparison, as the command line names it."""

    name: str
    place: str

    @property
    def is_url(self) -> bool:
        return config.is_url(self.place) and not Path(self.place).exists()


USAGE = "[SOURCE …] [OPTIONS]"
EXAMPLES = (
    "compare old=http://127.0.0.1:8000 new=http://127.0.0.1:8001",
    "compare --cold http://127.0.0.1:8000 --chart cold.png",
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="two or more engines, or files of results; NAME=SOURCE gives it a name",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--cold",
        action="store_true",
        help="compare one engine, or a file of `probe --cold --json`, with it without cache",
    )
    how.add_argument(
        "--restart-without-caching",
        action="store_true",
        help="start a managed target's engine once with and once without prefix caching",
    )
    parser.add_argument(
        "--sessions",
        type=_sessions,
        default=ENOUGH_PAIRS,
        metavar="N",
        help="sessions on each side, at least 2 (default: %(default)s: one that goes the other way "
        "does not hide a difference)",
    )
    add_engine_arguments(parser, positional=False)
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    add_quiet_argument(parser, "no progress, and of the comparison the verdict")
    add_color_argument(parser)
    parser.add_argument(
        "--chart", metavar="FILE", help="draw the comparison into FILE (.png or .svg)"
    )
    parser.epilog = _EPILOG
    add_settings(parser, *SESSION_SETTINGS, API_SETTING)


def _sessions(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or not 2 <= int(text) <= _MOST_SESSIONS:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number from 2 to {_MOST_SESSIONS} (one session alone does not show "
            "how much sessions differ by chance)"
        )
    return int(text)


def main(options: argparse.Namespace) -> int:
    prepare(options)
    if options.chart is not None:
        check_chart(options.chart)
    sources = sources_of(options.sources)
    if sources and not any(source.is_url for source in sources):
        comparison, number = _of_files(sources, cold=options.cold), None
    else:
        try:
            comparison, number = uvloop.run(_play(options, sources))
        except ColdUnprovenError as error:
            if options.json:
                raise
            console_on(sys.stdout).print(f"Whether cold is faster than cached is unknown: {error}")
            return 1
    return _write_result(comparison, number, options)


def sources_of(words: Sequence[str]) -> list[Source]:
    """The sides with their names; a side without a name is A, B, C…"""
    sources = []
    for place, word in enumerate(words):
        found = re.fullmatch(r"([\w.-]{1,40})=(.+)", word)
        if found is not None and not Path(word).exists():
            sources.append(Source(found[1], found[2]))
        else:
            sources.append(Source(_letter(place), word))
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ConfigError(f"compare: two sides have the same name: {', '.join(names)}")
    if len({source.is_url for source in sources}) > 1:
        raise ConfigError(
            "compare: give either engines or saved results. Save the sessions of an engine with "
            "`probe --json`"
        )
    return sources


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"side{place + 1}"  # noqa: PLR2004 - letters


def _of_files(sources: Sequence[Source], *, cold: bool) -> Comparison:
    """Compares the sessions in files. Raises `ConfigError` with file and field."""
    files = {source.place: _read(source.place) for source in sources}
    if cold:
        if len(files) != 1:
            raise ConfigError(
                "compare --cold takes one file, and compares its turns with their controls"
            )
        file, sessions = next(iter(files.items()))
        _check_controls(file, sessions)
        return compare(cold_sides(file, sessions), interleaved=True, cold=True)
    if len(files) < 2:  # noqa: PLR2004 - two make a comparison
        place = sources[0].place
        number = len(files[place])
        raise ConfigError(
            f"{place}: {number} session{'' if number == 1 else 's'} of one engine only. Give a "
            "second file, or --cold if the sessions have cold controls"
        )
    check_same_scenario(files)
    sides = [side_of(each.name, each.place, files[each.place]) for each in sources]
    return compare(sides, interleaved=False)


def _check_controls(file: str, sessions: Sequence[SessionResult]) -> None:
    """Raises `ConfigError` if no turn has a cold control."""
    turns = [turn for session in sessions for turn in session.turns]
    if any(turn.cold_ttft_seconds is not None for turn in turns):
        return
    unknown = all(turn.cached_tokens is None for turn in turns)
    remedy = f" {ADVICE[Notice.USAGE_DETAILS_MISSING]}" if turns and unknown else ""
    raise ConfigError(
        f"{file}: its sessions have no cold controls. Play them with `probe --cold --json`.{remedy}"
    )


def _read(file: str) -> list[SessionResult]:
    try:
        return read_sessions(file, Path(file).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file}: {error.strerror}. If it is an engine, write http://HOST:PORT or HOST:PORT"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not a text file in UTF-8") from error


async def _play(
    options: argparse.Namespace, sources: Sequence[Source]
) -> tuple[Comparison, int | None]:
    """Plays and compares sessions. Also returns the number of the signal that stopped them."""
    async with AsyncExitStack() as stack:
        if options.cold or options.restart_without_caching:
            return await _play_one_engine(options, sources, stack)
        if options.url or options.target or options.simulated:
            raise ConfigError("compare: --url, --target and --simulated need --cold")
        if len(sources) < 2:  # noqa: PLR2004 - two make a comparison
            raise ConfigError(
                "compare needs two or more engines or files, or --cold or --restart-without-caching"
            )
        add_targets(options, {f"side{n}": each.place for n, each in enumerate(sources, start=1)})
        settings = load_settings(options).settings
        quiet_logs(settings)
        names = [source.name for source in sources]
        keyed = [with_key_of_environment(each, os.environ) for each in settings.targets]
        targets = dict(zip(names, keyed, strict=True))
        players = await players_of(settings, targets, stack)
        number = await _play_rounds(players, options)
        return compare(_sides(players), interleaved=True), number


async def _play_one_engine(
    options: argparse.Namespace, sources: Sequence[Source], stack: AsyncExitStack
) -> tuple[Comparison, int | None]:
    if len(sources) > 1 or (sources and (options.url or options.target or options.simulated)):
        raise ConfigError("compare: --cold and --restart-without-caching take one engine only")
    url = await simulated_url(stack) if options.simulated else options.url
    settings, target = choose_target(options, sources[0].place if sources else url)
    if options.restart_without_caching:
        return await _play_restarted(settings, target, options)
    players = await players_of(settings, {"the engine": target}, stack, cold=True)
    number = await _play_rounds(players, options)
    sides = cold_sides(players[0].url, players[0].sessions)
    return compare(sides, interleaved=True, cold=True), number


async def _play_restarted(
    settings: Settings, target: Target, options: argparse.Namespace
) -> tuple[Comparison, int | None]:
    players: list[Player] = []
    work = play_restarted(
        *(settings, target, options.sessions, SystemClock()),
        players=players,
        show=_progress(options),
    )
    try:
        _, number = await until_signal(work)
    except DockerError as error:
        raise ExporterError(f"Docker at {container_of(target).docker_host}: {error}") from error
    if sum(bool(player.sessions) for player in players) < 2:  # noqa: PLR2004 - with and without
        show_progress("interrupted before both sides had a session: there is nothing to show")
        raise KeyboardInterrupt
    return compare(_sides(players), interleaved=False), number


async def _play_rounds(players: Sequence[Player], options: argparse.Namespace) -> int | None:
    """Returns the number of the signal that stopped the sessions."""
    work = play_rounds(players, options.sessions, _progress(options))
    _, number = await until_signal(work)
    if not players[0].sessions:
        show_progress("interrupted before the first round was complete: there is nothing to show")
        raise KeyboardInterrupt
    return number


def _progress(options: argparse.Namespace) -> Callable[[str], None]:
    return show_nothing if options.quiet else show_progress


def _sides(players: Sequence[Player]) -> list[Side]:
    return [side_of(each.name, each.url, each.sessions) for each in players]


def _write_result(comparison: Comparison, number: int | None, options: argparse.Namespace) -> int:
    """Write the comparison as the options say, and return the exit code.

    `number` is that of the signal that stopped the sessions.
    """
    interrupted = number is not None
    if options.json:
        print(json.dumps(comparison_json(comparison, interrupted=interrupted), indent=2))
    elif options.quiet:
        console_on(sys.stdout).print("\n".join(verdict(comparison, interrupted=interrupted)))
    else:
        console_on(sys.stdout).print(comparison_report(comparison, interrupted=interrupted))
    if options.chart is not None:
        write_comparison_chart(options.chart, comparison)
    if number is not None:
        return 128 + number
    return 0 if comparison.whole else 1
