"""`python -m mixin [--out FOLDER]`: write rules, runbooks and their Kubernetes copies."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mixin.outputs import ROOT, write
from mixin.settings import SettingsError, chosen


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mixin", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT, metavar="FOLDER")
    folder = parser.parse_args().out
    try:
        write(chosen(), folder)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's output
        return 2
    return 0


sys.exit(main())
