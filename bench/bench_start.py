"""From the start of the process to the first answered /metrics, beside a bare application.

Both take turns, so that whatever else the machine does falls on both. The bare application is
aiohttp, prometheus_client and uvloop, in one file.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from figures import Figure
from processes import EXPORTER, HERE, cores, first_answer, free_port, running

if TYPE_CHECKING:
    from collections.abc import Sequence

RATIO_GOAL = 1.3


def started(command: Sequence[str], port: int) -> float:
    """Seconds to the first answer."""
    mine, _ = cores()
    began = time.perf_counter()
    with running(command, on=mine, environment={"VLLM_HOST": "http://127.0.0.1:1"}):
        first_answer(port)
        return time.perf_counter() - began


def bare() -> float:
    port = free_port()
    return started([sys.executable, str(HERE / "bare_app.py"), str(port)], port)


def ours() -> float:
    port = free_port()
    return started([*EXPORTER, "run", "--listen", f"127.0.0.1:{port}"], port)


def measure(runs: int) -> list[Figure]:
    bare(), ours()  # the files are in memory from here on
    pairs = [(bare(), ours()) for _ in range(runs)]
    return [
        Figure("start_bare", "start of the bare application", "s", tuple(b for b, _ in pairs)),
        Figure("start", "start to the first /metrics", "s", tuple(o for _, o in pairs)),
        Figure(
            "start_ratio",
            "the same over the bare application",
            "x",
            tuple(o / b for b, o in pairs),
            RATIO_GOAL,
        ),
    ]


if __name__ == "__main__":
    from figures import as_text, rows

    print(as_text(rows(measure(9), None)))
