"""`python -m grafana [--out FOLDER]`: write every dashboard."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mixin.settings import SettingsError, chosen


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m grafana", description=__doc__)
    here = Path(__file__).parents[1]
    parser.add_argument("--out", type=Path, default=here, metavar="FOLDER")
    folder = parser.parse_args().out
    try:
        chosen()
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's output
        return 2
    from grafana.build import write  # noqa: PLC0415 - the panels read the settings at their import

    write(folder / "grafana" / "dashboards")
    return 0


sys.exit(main())
