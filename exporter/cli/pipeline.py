"""`--quiet`, `--no-color`, `--github` and `--junit`: what pipelines ask of `check` and `probe`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import ConfigError
from exporter.report.pipeline.github import annotation_lines
from exporter.report.pipeline.junit import junit_xml

if TYPE_CHECKING:
    import argparse

    from exporter.cli.parsing.parser import Parser
    from exporter.report.pipeline.cases import Suite


def add_quiet_argument(parser: Parser, text: str) -> None:
    """`--quiet`; `text` is its help."""
    parser.add_argument("-q", "--quiet", action="store_true", help=text)


def add_color_argument(parser: Parser) -> None:
    """`--no-color`."""
    parser.add_argument("--no-color", action="store_true", help="write no colors, as NO_COLOR does")


def add_pipeline_arguments(parser: Parser) -> None:
    """`--github` and `--junit`."""
    parser.add_argument(
        "--github", action="store_true", help="annotate failures for GitHub Actions, on stderr"
    )
    parser.add_argument("--junit", metavar="FILE", help="write a JUnit report into FILE")


def prepare(options: argparse.Namespace) -> None:
    """Before the work. Raises `ConfigError` if the JUnit report could not be written after it."""
    if options.no_color:
        os.environ["NO_COLOR"] = "1"
    file = getattr(options, "junit", None)
    if file is not None and not Path(file).expanduser().parent.is_dir():
        raise ConfigError(f"--junit {file}: its folder does not exist")


def publish(suite: Suite, options: argparse.Namespace) -> None:
    """Write the annotations and the report that were asked for."""
    if options.github:
        # GitHub reads standard error too, and standard output may be JSON.
        print("\n".join(annotation_lines(suite)), file=sys.stderr)
    if options.junit is not None:
        try:
            Path(options.junit).expanduser().write_text(junit_xml(suite), "utf-8")
        except OSError as error:
            raise ConfigError(f"--junit {options.junit}: {error.strerror}") from error
