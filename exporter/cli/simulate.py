"""`simulate`: a simulated vLLM server, for demos and for testing monitoring of vLLM."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from typing import TYPE_CHECKING

from exporter import logs
from exporter.cli.serving import run_until_signal
from exporter.errors import ExporterError
from exporter.simulator.profiles.starts import FAILING_STARTS
from exporter.simulator.profiles.table import PROFILES, settings_like
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from exporter.simulator.profiles.starts import FailingStart
    from exporter.simulator.profiles.table import Profile

_DEFAULTS = SimulatorSettings()


def add_like(parser: argparse.ArgumentParser, kinds: Mapping[str, Profile | FailingStart]) -> None:
    """`--like NAME`. The help ends with all names and their meaning."""
    parser.add_argument(
        "--like",
        metavar="NAME",
        help="simulate this kind of server; see below and docs/simulator.md",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = textwrap.fill(parser.description or "", 78)
    width = max(map(len, kinds)) + 4
    indent = " " * width
    listed = [
        textwrap.fill(f"{'  ' + name:{width}}{one.server}", 78, subsequent_indent=indent)
        for name, one in kinds.items()
    ]
    parser.epilog = "\n".join(["names for --like:", *listed])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_like(parser, {**PROFILES, **FAILING_STARTS})
    parser.add_argument("--host", default=_DEFAULTS.host, help="default: %(default)s")
    parser.add_argument("--port", type=int, default=_DEFAULTS.port, help="default: %(default)s")
    parser.add_argument("--served-model-name", default=_DEFAULTS.model, metavar="NAME")
    parser.add_argument("--block-size", type=int, default=_DEFAULTS.block_size, metavar="TOKENS")
    parser.add_argument(
        "--num-gpu-blocks-override", type=int, default=_DEFAULTS.num_blocks, metavar="BLOCKS"
    )
    parser.add_argument(
        "--max-model-len", type=int, default=_DEFAULTS.max_model_len, metavar="TOKENS"
    )
    parser.add_argument("--max-num-seqs", type=int, default=_DEFAULTS.max_num_seqs, metavar="N")
    parser.add_argument(
        "--data-parallel-size", type=int, default=_DEFAULTS.engine_ranks, metavar="RANKS"
    )
    parser.add_argument(
        "--no-enable-prompt-tokens-details",
        action="store_true",
        help="leave cached tokens out of usage, which is the default of vLLM",
    )
    parser.add_argument("--no-enable-prefix-caching", action="store_true")
    parser.add_argument("--disable-log-stats", action="store_true")
    parser.add_argument("--api-key-file", metavar="FILE", help="require the API key in FILE on /v1")
    parser.add_argument("--log.format", dest="log_format", choices=["json", "console"],
                        default="console")  # fmt: skip


def main(options: argparse.Namespace) -> int:
    logs.configure(options.log_format, "info")
    if (start := FAILING_STARTS.get(options.like)) is not None:
        print(f"SIMULATED vLLM: this start fails like {start.name}.", file=sys.stderr)
        print("\n".join(start.log), file=sys.stderr)
        return start.exit_code
    given = SimulatorSettings(
        host=options.host,
        port=options.port,
        model=options.served_model_name,
        block_size=options.block_size,
        num_blocks=options.num_gpu_blocks_override,
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        engine_ranks=options.data_parallel_size,
        enable_prompt_tokens_details=not options.no_enable_prompt_tokens_details,
        enable_prefix_caching=not options.no_enable_prefix_caching,
        log_stats=not options.disable_log_stats,
        api_key=_read_key(options.api_key_file),
    )
    settings = settings_like(options.like, given, FAILING_STARTS) if options.like else given

    async def serve(stop: asyncio.Event) -> None:
        simulator = Simulator(settings, on_exit=os._exit)
        try:
            await simulator.start()
        except OSError as error:
            raise ExporterError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
                "choose another --port"
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


def _read_key(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - one read at start
            return file.read().strip()
    except OSError as error:
        raise ExporterError(f"--api-key-file {path}: {error.strerror}") from error
