"""The command line: which command, with which settings, and what its exit code is.

0: fine. 1: the thing measured is unwell. 2: wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from exporter import __version__
from exporter.errors import ConfigError, ExporterError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = (
    "Plays multi-turn agent sessions against vLLM and exports, turn by turn, what its prefix cache "
    "served, how far that is from the ideal, and what it saved."
)

_COMMANDS = {
    "run": "Measure the configured targets and serve /metrics, until stopped.",
    "demo": "Show it without an engine: the daemon on a SIMULATED vLLM in the same process.",
    "simulate": "Serve a SIMULATED vLLM: its API, its metrics and its prefix cache, no model.",
    "probe": "Play one session against an engine and show what its cache served, turn by turn.",
    "compare": "Compare engines, saved results, or one engine with and without its cache.",
    "check": "Examine one engine: what is wrong with its prefix cache, and what mends it.",
    "launch": "Make and start a managed target's container once, or print its `docker run` line.",
    "config": "Check the configuration and print what is in force, from where, secrets hidden.",
}
_LONG_RUNNING = {"run", "demo", "simulate"}  # these let a held signal through: serving.py
# Where the module's name is not the command's.
_MODULES = {"config": "show_config", "compare": "compare.command"}


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands. Imports only the command that `arguments` names, so that a
    daemon does not hold the memory of the others.
    """
    parser = argparse.ArgumentParser(prog="vllm-cache-exporter", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in arguments if word in _COMMANDS), None)
    for name, text in _COMMANDS.items():
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name == wanted:
            module = import_module(f"exporter.cli.{_MODULES.get(name, name)}")
            module.add_arguments(one)
            one.set_defaults(main=module.main)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser(arguments).parse_args(arguments)
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
    if _LONG_RUNNING.intersection(sys.argv[1:2]):
        # To the first process of a container the kernel delivers no SIGTERM that it has no handler
        # for. Held from here on, one that comes while we still import is not lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if sys.argv[1:2] == ["run"]:
        # Before `run` has a handler for this one, which has it read its configuration again, it
        # would be the end of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
