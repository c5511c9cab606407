"""`demo`: the daemon and a simulated engine in one process."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from exporter import config, logs
from exporter.cli.serving import run_until_signal
from exporter.cli.simulate import add_like
from exporter.clock import SystemClock
from exporter.daemon.app import Daemon
from exporter.simulator.engine_kinds.table import PROFILES, settings_like
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    import argparse
    import asyncio

    from exporter.cli.parsing.parser import Parser

_FIRST_LINE = (
    "This demo runs on a SIMULATED vLLM: there is no model and the times are invented, but the "
    "prefix cache works like a real one."
)
_WELCOME = """\
Open while it runs:
  status page   {url}/
  metrics       {url}/metrics
  sessions      {url}/api/v1/sessions
  simulator     {engine}/metrics  (set faults with POST {engine}/faults)
Press Ctrl-C to stop."""

USAGE = "[OPTIONS]"
EXAMPLES = ("demo", "demo --like eagle --interval-seconds 5")


def add_arguments(parser: Parser) -> None:
    add_like(parser, PROFILES)
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        default="127.0.0.1:9477",
        help="address to serve on (default: %(default)s)",
    )
    parser.add_argument(
        "--interval-seconds",
        metavar="SECONDS",
        default="15",
        help="time between sessions (default: %(default)s)",
    )
    parser.add_argument("--log.level", dest="log_level", metavar="LEVEL", default="info",
                        help="debug, info, warning or error (default: %(default)s)")  # fmt: skip


def main(options: argparse.Namespace) -> int:
    print(_FIRST_LINE, file=sys.stderr)
    plain = SimulatorSettings(port=0)
    engine = settings_like(options.like, plain) if options.like else plain
    logs.configure("console", "info")

    async def serve(stop: asyncio.Event) -> None:
        async with Simulator(engine) as simulator:
            settings = config.load(
                config_file=None,
                cli={
                    "listen": options.listen,
                    "log.level": options.log_level,
                    "probe.interval_seconds": options.interval_seconds,
                    # A simulator has no users to disturb.
                    "probe.tokens_per_hour": "20000000",
                    "probe.max_cache_turnover_per_hour": "0",
                    "probe.quiet_after_seconds": "0",
                    "targets": json.dumps([{"name": "demo", "url": simulator.url}]),
                },
                environ={},
                dotenv=None,
                secrets_dir=None,
            ).settings
            logs.configure(settings.log.format, settings.log.level)
            daemon = Daemon(settings, SystemClock())

            def welcome() -> None:
                print(_WELCOME.format(url=daemon.url, engine=simulator.url), file=sys.stderr)

            await daemon.run(stop, welcome)

    return run_until_signal(serve)
