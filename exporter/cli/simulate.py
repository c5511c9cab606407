"""`simulate`: a simulated vLLM server, for demos and for testing monitoring of vLLM."""

from __future__ import annotations

import errno
import os
import sys
import textwrap
from importlib.util import find_spec
from typing import TYPE_CHECKING

from exporter import logs
from exporter.cli.serving import run_until_signal
from exporter.errors import ConfigError, ExporterError
from exporter.simulator.engine_kinds.starts import FAILING_STARTS
from exporter.simulator.engine_kinds.table import PROFILES, settings_like
from exporter.simulator.kv_events.settings import parse_kv_events_config
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    import argparse
    import asyncio
    from collections.abc import Mapping

    from exporter.cli.parsing.parser import Parser
    from exporter.simulator.engine_kinds.profile import Profile
    from exporter.simulator.engine_kinds.starts import FailingStart
    from exporter.simulator.kv_events.settings import KvEventsConfig

_DEFAULTS = SimulatorSettings()
_FLAGS = (  # vLLM's name, ours, the unit, and the meaning
    ("--host", "host", "ADDRESS", "the address to listen on"),
    ("--port", "port", "PORT", "the port; 0 lets the system choose"),
    ("--served-model-name", "model", "NAME", "the model"),
    ("--block-size", "block_size", "TOKENS", "tokens of a cache block"),
    ("--num-gpu-blocks-override", "num_blocks", "BLOCKS", "blocks of the cache"),
    ("--max-model-len", "max_model_len", "TOKENS", "the context"),
    ("--max-num-seqs", "max_num_seqs", "N", "requests that run at the same time"),
    ("--data-parallel-size", "engine_ranks", "RANKS", "engine ranks, each with its own cache"),
)
_SWITCHES = (
    (
        "--no-enable-prompt-tokens-details",
        "enable_prompt_tokens_details",
        "leave cached tokens out of usage, which is the default of vLLM",
    ),
    ("--no-enable-prefix-caching", "enable_prefix_caching", "cache no prefixes"),
    ("--disable-log-stats", "log_stats", "serve no metrics of the engine"),
)
USAGE = "[OPTIONS]"
EXAMPLES = (
    "simulate --port 8000 --block-size 32",
    "simulate --like eagle --no-enable-prompt-tokens-details",
)


def add_like(parser: Parser, kinds: Mapping[str, Profile | FailingStart]) -> None:
    """`--like NAME`. `--help-all` ends with all names and their meaning."""
    parser.add_argument(
        "--like",
        metavar="NAME",
        help="the kind of server, such as eagle, gemma3 or router; --help-all lists all "
        "(default: a vLLM of today with full attention)",
    )
    width = max(map(len, kinds)) + 4
    indent = " " * width
    listed = [
        textwrap.fill(f"{'  ' + name:{width}}{one.server}", 78, subsequent_indent=indent)
        for name, one in kinds.items()
    ]
    parser.hidden_epilog = "\n".join(["names for --like:", *listed])


def add_arguments(parser: Parser) -> None:
    add_like(parser, {**PROFILES, **FAILING_STARTS})
    for flag, field, unit, text in _FLAGS:
        default = getattr(_DEFAULTS, field)
        parser.add_argument(
            flag, dest=field, type=type(default), default=default, metavar=unit,
            help=f"{text} (default: %(default)s)",
        )  # fmt: skip
    for flag, field, text in _SWITCHES:
        parser.add_argument(flag, dest=field, action="store_false", help=text)
    parser.add_argument("--api-key-file", metavar="FILE", help="require the API key in FILE on /v1")
    parser.add_argument(
        "--kv-events-config",
        metavar="JSON",
        help="publish KV events, as vLLM does with this flag; needs the extra `events`",
    )
    parser.add_argument("--log.format", dest="log_format", choices=["json", "console"],
                        default="console", help="log format (default: %(default)s)")  # fmt: skip
    parser.epilog = (
        "Set faults while it runs: GET /faults lists them, POST /faults sets them. Exit code: 0 "
        "after SIGTERM or Ctrl-C, 1 if it cannot listen, 2 for wrong usage."
    )


def main(options: argparse.Namespace) -> int:
    logs.configure(options.log_format, "info")
    if (start := FAILING_STARTS.get(options.like)) is not None:
        print(f"SIMULATED vLLM: this start fails like {start.name}.", file=sys.stderr)
        print("\n".join(start.log), file=sys.stderr)
        return start.exit_code
    fields = [field for _, field, *_ in (*_FLAGS, *_SWITCHES)]
    given = SimulatorSettings(
        **{field: getattr(options, field) for field in fields},
        api_key=_read_key(options.api_key_file),
        kv_events=_kv_events(options.kv_events_config),
    )
    settings = settings_like(options.like, given, FAILING_STARTS) if options.like else given

    async def serve(stop: asyncio.Event) -> None:
        simulator = Simulator(settings, on_exit=os._exit)
        try:
            await simulator.start()
        except OSError as error:
            raise ExporterError(
                f"cannot listen on {settings.host}:{settings.port}: {_bind_failure(error)}"
            ) from error
        print(
            f"SIMULATED vLLM {settings.model!r} at {simulator.url}. No model runs here."
            + (f" It behaves like {options.like}." if options.like else ""),
            file=sys.stderr,
        )
        # vLLM's own line: a program that follows the log knows by it that the server is up.
        print("INFO:     Application startup complete.", file=sys.stderr)
        try:
            await stop.wait()
        finally:
            await simulator.stop()

    return run_until_signal(serve)


def _bind_failure(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "another program uses that port: choose another --port",
        errno.EACCES: "this user may not use that port: choose a --port above 1023",
        errno.EADDRNOTAVAIL: "this machine does not have that address: choose another --host",
    }.get(error.errno or 0, error.strerror or str(error))


def _kv_events(text: str | None) -> KvEventsConfig | None:
    if text is not None and any(find_spec(name) is None for name in ("zmq", "msgspec")):
        raise ConfigError(
            "--kv-events-config needs pyzmq and msgspec: pip install 'pyzmq>=26' 'msgspec>=0.19'"
        )
    return None if text is None else parse_kv_events_config(text)


def _read_key(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - one read at start
            return file.read().strip()
    except OSError as error:
        raise ExporterError(f"--api-key-file {path}: {error.strerror}") from error
