"""`explain`: what each recorded request could reuse, what its client changed, and what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from exporter.analysis.requests.totals import totals_of
from exporter.cli.explain.estimating import estimated, read
from exporter.cli.explain.on_engine import explained_on
from exporter.cli.one_engine import SESSION_SETTINGS, add_engine_arguments
from exporter.cli.parsing.parser import add_settings
from exporter.cli.pipeline import add_color_argument, add_quiet_argument, prepare
from exporter.cli.probe.command import ratio
from exporter.errors import ConfigError
from exporter.report.charts import check_chart, write_requests_chart
from exporter.report.requests.before import before_table
from exporter.report.requests.json import requests_json
from exporter.report.requests.text import requests_report, verdict
from exporter.report.screen import console_on
from exporter.wording import numbers

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from exporter.cli.parsing.parser import Parser
    from exporter.model.explained import ExplainedRecording

USAGE = "FILE [OPTIONS]"
EXAMPLES = (
    "explain requests.jsonl",
    "explain requests.jsonl --url 127.0.0.1:8000 --replay",
)
_UNIT = 16
"""Tokens of a block without an engine: vLLM's default on GPUs."""
_LISTED = 5


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="recorded requests of /v1/chat/completions, /v1/messages or /v1/responses: one a "
        "line, a JSON list, HAR, LiteLLM, Langfuse or batch lines; - is standard input",
    )
    add_engine_arguments(parser, positional=False)
    parser.add_argument(
        "--replay",
        action="store_true",
        help="with an engine: send the requests again, and compare what it served with what it "
        "could",
    )
    parser.add_argument(
        "--pace",
        choices=("fast", "recorded"),
        default="fast",
        help="of --replay: one after another, or with the recorded pauses (default: fast)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--before", metavar="FILE", help="a recording from before a change, to compare with"
    )
    parser.add_argument(
        "--chart", metavar="FILE", help="draw the tokens of each request (.png or .svg)"
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="write lengths and shared blocks, without texts",
    )
    parser.add_argument("--all", action="store_true", help="show every request in the table")
    parser.add_argument(
        "--show-text",
        action="store_true",
        help="show the texts that differ, not only their places",
    )
    parser.add_argument(
        "--fail-under-reusable",
        type=ratio,
        metavar="RATIO",
        help="exit with 1 if reusable / (reusable + changed) tokens is below it",
    )
    add_quiet_argument(parser, "of the result only the verdict")
    add_color_argument(parser)
    parser.epilog = (
        "Exit code: 0 if the requests were read, 1 if the ratio is not reached, 2 for a file "
        "without requests or wrong usage."
    )
    add_settings(parser, *SESSION_SETTINGS)


def main(options: argparse.Namespace) -> int:
    prepare(options)
    has_engine = bool(options.url or options.target or options.simulated)
    if options.replay and not has_engine:
        raise ConfigError("--replay needs an engine: --url, --target or --simulated")
    if options.chart is not None:
        check_chart(options.chart)
    recordings = [read(options.files)]
    if options.before is not None:
        recordings.append(read([options.before]))
    explained = (
        uvloop.run(explained_on(options, recordings))
        if has_engine
        else [estimated(one, with_trace=options.trace is not None) for one in recordings]
    )
    for one in explained:
        _tell_skipped(one)
    found, *before = explained
    _show(found, before, options)
    if options.chart is not None:
        write_requests_chart(options.chart, found)
    if options.trace is not None:
        _write_trace(options.trace, found)
    return _exit_code(found, options)


def _show(
    found: ExplainedRecording, before: Sequence[ExplainedRecording], options: argparse.Namespace
) -> None:
    if options.json:
        shape = requests_json(found, before=next(iter(before), None), show_text=options.show_text)
        print(json.dumps(shape, indent=2))
        return
    out = console_on(sys.stdout)
    if options.quiet:
        out.print(verdict(found))
    else:
        out.print(requests_report(found, show_text=options.show_text, every_row=options.all))
    for one in before:
        out.print("", before_table(one, found), sep="\n")


def _write_trace(file: str, found: ExplainedRecording) -> None:
    lines = (json.dumps(line, separators=(",", ":")) + "\n" for line in found.trace or ())
    try:
        Path(file).expanduser().write_text("".join(lines), "utf-8")
    except OSError as error:
        raise ConfigError(f"--trace {file}: {error.strerror}") from error


def _tell_skipped(found: ExplainedRecording) -> None:
    aside = console_on(sys.stderr)
    for one in found.skipped[:_LISTED]:
        line = f"{found.source}, {one.place}: {one.reason}"
        aside.print(line, style="yellow", soft_wrap=True)
    if len(found.skipped) > _LISTED:
        left = len(found.skipped) - _LISTED
        aside.print(f"and {left:,} more that were not used", style="yellow")


def _exit_code(found: ExplainedRecording, options: argparse.Namespace) -> int:
    reached, wanted = totals_of(found.requests).reusable_ratio, options.fail_under_reusable
    if wanted is None or (reached is not None and reached >= wanted):
        return 0
    aside = console_on(sys.stderr)
    said = "nothing is repeated" if reached is None else numbers.percent(reached)
    aside.print(f"reusable: {said}, less than {numbers.percent(wanted)}", style="bold red")
    return 1
