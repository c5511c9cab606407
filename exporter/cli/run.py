"""`run`: the daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from exporter import config, logs
from exporter.cli.serving import run_until_signal
from exporter.cli.settings import load_settings
from exporter.clock import SystemClock
from exporter.daemon.app import Daemon

if TYPE_CHECKING:
    import argparse

    from exporter.config import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    config.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    settings = load_settings(options, targets_required=True).settings
    logs.configure(settings.log.format, settings.log.level)

    def read_again() -> Settings:
        return config.load_from(options, os.environ, targets_required=True).settings

    daemon = Daemon(settings, SystemClock(), read_again)
    return run_until_signal(daemon.run, on_hangup=daemon.request_reload)
