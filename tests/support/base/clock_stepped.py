"""Runs the exporter's command line with a wall clock that a file puts forward or back.

The first argument names the file: seconds to add to the time. Only `time.time` is moved: what
monotonic clocks say does not change when a system's clock is set.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def put_by(file: Path) -> None:
    real = time.time
    time.time = lambda: real() + float(file.read_text() or 0)


if __name__ == "__main__":
    put_by(Path(sys.argv.pop(1)))
    from exporter.cli.main import main

    sys.exit(main())
