"""`capture`: a proxy that records an agent's requests, and says at the end what `explain` finds."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from exporter import logs
from exporter.capture.proxy import Proxy
from exporter.capture.recording_file import RecordingFile
from exporter.capture.serving import serving
from exporter.cli.explain.estimating import estimated, read
from exporter.cli.pipeline import add_color_argument, prepare
from exporter.cli.serving import run_until_signal
from exporter.config.schema.values import ListenAddress, parse_listen
from exporter.errors import ConfigError
from exporter.report.requests.text import requests_report
from exporter.report.screen import console_on
from exporter.wording import numbers

if TYPE_CHECKING:
    import asyncio

    from exporter.capture.proxy import Counts
    from exporter.cli.parsing.parser import Parser

USAGE = "--url URL [OPTIONS]"
EXAMPLES = (
    "capture --url http://127.0.0.1:8000 --out requests.jsonl",
    "capture --url 127.0.0.1:8000 --listen 127.0.0.1:9500",
)
_LISTEN = "127.0.0.1:9478"
_MIB = 1 << 20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--url", required=True, type=_url, help="the engine: http://HOST:8000")
    parser.add_argument(
        "--listen",
        type=_listen,
        default=parse_listen(_LISTEN),
        metavar="HOST:PORT",
        help=f"where agents send their requests instead (default: {_LISTEN})",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("requests.jsonl"),
        metavar="FILE",
        help="the recording, readable by you only (default: requests.jsonl)",
    )
    parser.add_argument(
        "--max-size",
        type=_size,
        default=1024,
        metavar="MIB",
        help="record up to so many MiB; the proxy goes on after that (default: 1024)",
    )
    add_color_argument(parser)
    parser.epilog = (
        "Prompts and answers are recorded, headers with keys and cookies are not. Ctrl-C ends it "
        "and shows what `explain` finds. Exit code: 0, or 2 for wrong usage."
    )


def _listen(text: str) -> ListenAddress:
    try:
        return parse_listen(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _url(text: str) -> str:
    url = text if "://" in text else f"http://{text}"
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise argparse.ArgumentTypeError(f"{text!r} is no URL of an engine, as http://HOST:8000")
    return url.rstrip("/").removesuffix("/v1")


def _size(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,6}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MiB from 1 on")
    return int(text)


def main(options: argparse.Namespace) -> int:
    prepare(options)
    logs.configure("console", "warning")
    file = RecordingFile(options.out, options.max_size * _MIB)
    proxy = Proxy(options.url, file)

    async def serve(stop: asyncio.Event) -> None:
        listen = options.listen
        async with file, serving(proxy, listen.host, listen.port) as port:
            _tell_address(str(ListenAddress(listen.host, port)), options)
            await stop.wait()

    run_until_signal(serve)
    _tell(file, proxy.counts)
    return 0


def _tell_address(address: str, options: argparse.Namespace) -> None:
    aside = console_on(sys.stderr)
    aside.print(f"Recording requests to {options.url} into {options.out}.", soft_wrap=True)
    aside.print("Set your agent's base URL, run it, and press Ctrl-C here when it is done:")
    aside.print(f"  OPENAI_BASE_URL=http://{address}/v1", soft_wrap=True)
    aside.print(f"  ANTHROPIC_BASE_URL=http://{address}", soft_wrap=True)
    if options.listen.host not in _LOOPBACK:
        aside.print("Others can reach this address, and their prompts are recorded too.", "yellow")


def _tell(file: RecordingFile, counts: Counts) -> None:
    aside = console_on(sys.stderr)
    said = f"{file.path}: {numbers.count(file.written)} requests recorded"
    for number, what in (
        (counts.refused, "refused by the engine"),
        (counts.unfinished, "cut short"),
        (file.dropped, f"not recorded ({file.failure or '--max-size'})"),
        (counts.other, "of other paths not recorded"),
    ):
        said += f", {numbers.count(number)} {what}" if number else ""
    aside.print(f"{said}.", soft_wrap=True)
    if not file.written:
        return
    try:
        found = estimated(read([str(file.path)]))
    except ConfigError as error:
        aside.print(str(error), style="yellow")
        return
    console_on(sys.stdout).print(requests_report(found))
    aside.print(f"For exact tokens: explain {file.path} --url URL", soft_wrap=True)
