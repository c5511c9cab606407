"""`scenario import`: makes a scenario file from logged requests, and says what it left out."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import ConfigError, ScenarioError
from exporter.scenario.file import parse_json
from exporter.scenario.imported.conversations import Conversation, conversations
from exporter.scenario.imported.log import requests_of
from exporter.scenario.library import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.cli.parsing.parser import Parser

USAGE = "import FILE [OPTIONS]"
EXAMPLES = (
    "scenario import requests.jsonl --output agent.json",
    "scenario import - --conversation 2 < litellm.jsonl > second.json",
)
_LISTED = 10
_PRIVACY = (
    "These texts are sent to the engine in every session from now on. Nothing was made unreadable: "
    "take out what must not be kept or sent."
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("action", choices=("import",), help="make a scenario from a log")
    parser.add_argument(
        "file",
        metavar="FILE",
        help="logged requests, JSON or one request a line, of vLLM's or Anthropic's API, LiteLLM "
        "or Langfuse; - is standard input",
    )
    parser.add_argument("--output", "-o", metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--conversation",
        type=_number,
        metavar="N",
        help="which conversation of the log, from 1 (default: the one with most turns)",
    )
    parser.add_argument("--name", help="the label `scenario` (default: the name of the file)")
    parser.epilog = "Exit code: 0 if a scenario was written, 2 if the log has none."


def main(options: argparse.Namespace) -> int:
    source = "standard input" if options.file == "-" else options.file
    text = _read(options.file, source)
    name = options.name or _name(options.output or options.file)
    try:
        found = conversations(requests_of(text, source))
        chosen = _chosen(found, options.conversation, source)
        scenario = chosen.scenario(name)
        parse_json(scenario, f"{source}, as a scenario", name)
    except ScenarioError as error:
        raise ConfigError(str(error)) from error
    _write(scenario, options.output)
    for line in _told(found, chosen, source):
        print(line, file=sys.stderr)
    return 0


def _number(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _read(file: str, source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not UTF-8: byte {error.start} is wrong") from error


def _chosen(found: Sequence[Conversation], number: int | None, source: str) -> Conversation:
    if number is None:
        return max(found, key=lambda one: one.turns)
    if number > len(found):
        raise ScenarioError(f"{source}: --conversation {number}: the log has {len(found)}")
    return found[number - 1]


def _name(file: str) -> str:
    stem = re.sub("[^a-zA-Z0-9_.-]+", "-", Path(file).stem).strip("-")[:64]
    return stem or "imported"


def _write(text: str, output: str | None) -> None:
    if len(text.encode()) > MOST_BYTES:
        raise ConfigError(f"the scenario would have more than {MOST_BYTES >> 20} MiB")
    if output is None:
        print(text, end="")
        return
    try:
        with Path(output).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"--output: {output} exists; remove it or name another file") from None
    except OSError as error:
        raise ConfigError(f"--output: {output} cannot be written: {error.strerror}") from error


def _told(found: Sequence[Conversation], chosen: Conversation, source: str) -> list[str]:
    """What was taken and what was left out, for people."""
    lines = []
    if len(found) > 1:
        lines.append(f"{source} has {len(found)} conversations:")
        for number, one in enumerate(found[:_LISTED], start=1):
            mark = " (taken)" if one is chosen else ""
            where = one.first if one.first == one.last else f"{one.first} to {one.last}"
            lines.append(f"  --conversation {number}: {where}, {_count(one.turns, 'turn')}{mark}")
        if len(found) > _LISTED:
            lines.append(f"  and {len(found) - _LISTED} more")
    requests = _count(chosen.requests, "request")
    lines.append(f"A scenario of {_count(chosen.turns, 'turn')}, from {requests}.")
    if chosen.changed:
        lines.append("Left out or replaced:")
        lines += [f"  {what}: {count}" for what, count in sorted(chosen.changed.items())]
    return [*lines, _PRIVACY]


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"
