"""The command line: which command, with which settings, and what its exit code is.

0: fine. 1: the thing measured is unwell. 2: wrong usage or configuration.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import ssl
import sys
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from exporter import __version__
from exporter.errors import ConfigError, ExporterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    """The parser of all commands. Only the one that `arguments` names is imported.

    A daemon that lives for months need not carry what other commands are made of.
    """
    parser = argparse.ArgumentParser(prog="vllm-cache-exporter", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in arguments if word in _COMMANDS), None)
    for name, text in _COMMANDS.items():
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name == wanted:
            _import_without_burdens()
            module = import_module(f"exporter.cli.{_MODULES.get(name, name)}")
            module.add_arguments(one)
            one.set_defaults(main=module.main)
    return parser


def _import_without_burdens() -> None:
    """Import what takes time and memory at its import, for what this program never asks of it."""
    # Whether another package has a plugin for pydantic would be searched for in all of them.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    _import_structlog_alone()
    _import_aiohttp_without_authorities()


def _import_structlog_alone() -> None:
    """Import structlog without the rich that it takes for tracebacks where it finds it.

    `probe` wants rich. A daemon need not carry its 3 MB, nor a log the local variables that its
    tracebacks show.
    """
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment] # Python's way to say: not to be had
    try:
        import_module("structlog")
    finally:
        del sys.modules["rich"]


def _import_aiohttp_without_authorities() -> None:
    """Import aiohttp without the system's certificates, which it reads twice as it is imported.

    That takes 35 ms, a tenth of a start. Its default context trusts nobody then; `EngineClient`
    gives each https request a context of its own choice.
    """
    if "aiohttp" in sys.modules:
        return
    ssl.SSLContext.set_default_verify_paths = _read_none  # type: ignore[method-assign]
    try:
        import_module("aiohttp")
    finally:
        del ssl.SSLContext.set_default_verify_paths  # the real one is its base class's


def _read_none(self: ssl.SSLContext) -> None:
    """What is called in place of the reading of certificates."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with _no_garbage_collection():
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


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Imports leave no garbage to speak of: to look for it takes a tenth of the time of a start.

    Nor need what was imported ever be looked through again, which would hold up the event loop.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


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
