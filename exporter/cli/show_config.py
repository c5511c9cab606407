"""`config`: checks the settings, and prints each value and its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter import config
from exporter.cli.parsing.parser import add_settings
from exporter.cli.settings import load_settings
from exporter.scenario.library import load_scenarios
from exporter.web.access.configuration import read_web_config

if TYPE_CHECKING:
    import argparse

    from exporter.cli.parsing.parser import Parser

USAGE = "[OPTIONS]"
EXAMPLES = ("config --config exporter.toml", "config --config exporter.toml --json")


def add_arguments(parser: Parser) -> None:
    add_settings(parser)
    parser.epilog = "Exit code: 0 if the configuration is right, 2 if not."
    parser.add_argument("--json", action="store_true", help="print the settings as JSON")


def main(options: argparse.Namespace) -> int:
    loaded = load_settings(options)
    if loaded.settings.web_config_file is not None:
        read_web_config(loaded.settings.web_config_file)  # raises `ConfigError` too
    load_scenarios(loaded.settings.probe.scenario)  # and this
    print(config.describe_json(loaded) if options.json else config.describe(loaded))
    return 0
