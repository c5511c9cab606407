"""The time from the start of the process to the first answer of /metrics."""

from __future__ import annotations

import time

from figures import Figure
from processes import EXPORTER, cores, first_answer, free_port, running

GOAL_SECONDS = 0.5


def started() -> float:
    """Seconds to the first answer."""
    port, (mine, _) = free_port(), cores()
    command = [*EXPORTER, "run", "--listen", f"127.0.0.1:{port}"]
    began = time.perf_counter()
    with running(command, on=mine, environment={"VLLM_HOST": "http://127.0.0.1:1"}):
        first_answer(port)
        return time.perf_counter() - began


def measure(runs: int) -> list[Figure]:
    started()  # reads the files into the page cache
    values = tuple(started() for _ in range(runs))
    return [Figure("start", "start to the first /metrics", "s", values, GOAL_SECONDS)]


if __name__ == "__main__":
    from figures import as_text, rows

    print(as_text(rows(measure(9), None)))
