"""The command line: which command, with which settings, and what its exit code is.

0: fine. 1: the thing measured is unwell. 2: wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from exporter import __version__
from exporter.cli import demo, probe, run, show_config, simulate
from exporter.errors import ConfigError, ExporterError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = (
    "Plays multi-turn agent sessions against vLLM and exports, turn by turn, what its prefix cache "
    "served, how far that is from the ideal, and what it saved."
)

_COMMANDS = (run, demo, simulate, probe, show_config)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="vllm-cache-exporter", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        one = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.add_arguments(one)
        one.set_defaults(main=command.main)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return int(options.main(options))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except ExporterError as error:
        print(f"vllm-cache-exporter: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def entry() -> None:
    """The console script."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
