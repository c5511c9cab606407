"""`run`: the daemon."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

from exporter import config, logs
from exporter.cli.parsing.parser import add_settings
from exporter.cli.serving import run_until_signal
from exporter.cli.settings import load_settings
from exporter.clock import SystemClock
from exporter.daemon.app import Daemon

if TYPE_CHECKING:
    import argparse

    from exporter.cli.parsing.parser import Parser
    from exporter.config import Settings

USAGE = "[OPTIONS]"
EXAMPLES = (
    "run --config exporter.toml",
    "run --set targets[0].url=http://127.0.0.1:8000 --listen 0.0.0.0:9477",
)
_SHOWN = (
    *("listen", "log.format", "log.level", "web_config_file"),
    *("probe.interval_seconds", "probe.scenario", "probe.tokens_per_hour"),
    *("probe.max_cache_turnover_per_hour", "scrape.interval_seconds"),
)
_LOG_LEVELS = {"-v --verbose": ("log.level", "debug"), "-q --quiet": ("log.level", "warning")}
_FULL_COLLECTION_AFTER = 1000
"""Collections of younger objects before one of all objects, which Python does after ten. It stops
the event loop for a quarter of a millisecond per target and finds almost nothing: records have no
cycles."""


def add_arguments(parser: Parser) -> None:
    config.add_short_flags(parser, _LOG_LEVELS)
    add_settings(parser, *_SHOWN)
    parser.epilog = (
        "SIGHUP reloads the configuration. Exit code: 0 after SIGTERM or Ctrl-C, 1 if it cannot "
        "serve, 2 for wrong usage or configuration."
    )


def main(options: argparse.Namespace) -> int:
    settings = load_settings(options, targets_required=True).settings
    logs.configure(settings.log.format, settings.log.level)

    def read_again() -> Settings:
        return config.load_from(options, os.environ, targets_required=True).settings

    gc.set_threshold(*gc.get_threshold()[:2], _FULL_COLLECTION_AFTER)
    daemon = Daemon(settings, SystemClock(), read_again)
    return run_until_signal(daemon.run, on_hangup=daemon.request_reload)
