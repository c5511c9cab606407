"""`run`: the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter import config, logs
from exporter.app import Daemon
from exporter.cli.serving import run_until_signal
from exporter.cli.settings import load_settings
from exporter.clock import SystemClock

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    config.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    settings = load_settings(options, targets_required=True).settings
    logs.configure(settings.log.format, settings.log.level)
    return run_until_signal(Daemon(settings, SystemClock()).run)
