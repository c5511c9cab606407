"""The command line: finds the command, runs it and sets the exit code.

0: success. 1: the measured engine is unhealthy, or the command failed. 2: wrong usage or
configuration. 3: the output could not be written.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, TextIO

from exporter.cli.parsing.parser import HelpAll, Parser, suggestion
from exporter.errors import ConfigError, ExporterError
from exporter.revision import version_and_revision

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = (
    "Plays multi-turn agent sessions against vLLM. Exports for each turn how much the prefix cache "
    "served, how much it could have served, and how much time that saved."
)
_EPILOG = """\
examples:
  vllm-cache-exporter demo
  vllm-cache-exporter probe http://127.0.0.1:8000

Exit code: 0 fine, 1 the engine is unhealthy or the command failed, 2 wrong usage or \
configuration, 3 the output could not be written. `COMMAND --help` has the options of a command."""

COMMANDS = {
    "run": "Measure the configured targets and serve /metrics until stopped.",
    "demo": "Try it without an engine: run the daemon on a SIMULATED vLLM in the same process.",
    "simulate": "Serve a SIMULATED vLLM: API, metrics and prefix cache, but no model.",
    "probe": "Play one session against an engine and show what its cache served, turn by turn.",
    "compare": "Compare engines, saved results, or one engine with and without its cache.",
    "check": "Test one engine: what is wrong with its prefix cache, and how to fix it.",
    "explain": "Show why an agent's recorded requests miss the cache, and what to change.",
    "capture": "Record the requests of an agent by a proxy in front of an engine, for `explain`.",
    "scenario": "Make a scenario from logged requests.",
    "launch": "Create and start a managed target's container, or print its `docker run` line.",
    "config": "Check the configuration. Print each value and its source, with secrets hidden.",
    "completion": "Print a script that completes commands and options in bash, zsh or fish.",
}
_LONG_RUNNING = {"run", "demo", "simulate", "capture"}
"""They unblock the signals below, in serving.py."""
# For commands whose module has another name.
_MODULES = {
    "config": "show_config",
    "compare": "compare.command",
    "explain": "explain.command",
    "capture": "capture.command",
    "probe": "probe.command",
    "scenario": "scenario.command",
}


def build_parser(arguments: Sequence[str]) -> Parser:
    """The parser of all commands. Imports only the command that `arguments` names, which keeps
    the other commands out of the daemon's memory.
    """
    parser = Parser(
        prog="vllm-cache-exporter",
        usage="%(prog)s COMMAND [OPTIONS]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    version = f"%(prog)s {version_and_revision()}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, prog=parser.prog, title="commands"
    )
    wanted = next((word for word in arguments if word in COMMANDS), None)
    for name, text in COMMANDS.items():
        one = commands.add_parser(name, help=text, description=text)
        parser.commands[name] = one
        if name == wanted:
            module = import_module(f"exporter.cli.{_MODULES.get(name, name)}")
            one.usage = f"%(prog)s {module.USAGE}"
            module.add_arguments(one)
            examples = (f"  {parser.prog} {line}" for line in module.EXAMPLES)
            one.epilog = "\n".join(["examples:", *examples, "", one.epilog or ""]).strip()
            one.set_defaults(main=module.main)
            if one.hidden_help or one.hidden_epilog:
                one.add_argument("--help-all", action=HelpAll)
    return parser


def _check_command(parser: Parser, arguments: Sequence[str]) -> None:
    first = next(iter(arguments), "-")
    if not first.startswith("-") and first not in COMMANDS:
        parser.error(f"unknown command {first}{suggestion(first, COMMANDS)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser(arguments)
    _check_command(parser, arguments)
    options = parser.parse_args(arguments)
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
        # The kernel drops a SIGTERM to the first process of a container that has no handler for it.
        # Blocked here, a signal that arrives during the imports waits for the handler.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if sys.argv[1:2] == ["run"]:
        # SIGHUP reloads the configuration. Before `run` has its handler, SIGHUP would end it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    sys.stdout = _buffered(sys.stdout)
    code: str | int | None = 0
    try:
        try:
            code = main()
        except SystemExit as ended:  # argparse's own, after --help for example
            code = ended.code
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        code = _unwritable(error)
    sys.exit(code)


def _buffered(stream: TextIO) -> TextIO:
    """With PYTHONUNBUFFERED, as in the image, a stream forgets what a short write left over.

    A disk that fills up or a signal makes a write short. A buffer writes the rest, or fails.
    """
    raw = getattr(stream, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True
    )


_UNWRITABLE = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def _unwritable(error: OSError) -> int:
    """Say why standard output cannot be written, and return the exit code."""
    closed = isinstance(error, BrokenPipeError)
    reason = "its reader closed the pipe" if closed else error.strerror
    # What is still buffered would fail again when Python closes the stream.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):  # standard error may be as full
        print(f"vllm-cache-exporter: the output could not be written: {reason}", file=sys.stderr)
    return 3
