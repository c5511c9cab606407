"""What the soak reads about its own process. Linux only."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from exporter.engine.metrics.windows import Sample


@dataclass(frozen=True, slots=True)
class Reading:
    """The process at one moment.

    `objects` are those that the garbage collector tracks, without the soak's own readings and
    without `window_samples`: the points of the rolling hit ratios, which fill for an hour and then
    stay.
    """

    sessions: int
    rss_mib: float
    descriptors: int
    tasks: int
    threads: int
    objects: int
    window_samples: int


def read(sessions: int) -> Reading:
    """Now, with `sessions` finished. The memory is read before garbage is collected."""
    rss = rss_mib()
    gc.collect()
    samples = objects = 0
    for each in gc.get_objects():
        samples += type(each) is Sample
        objects += type(each) not in (Sample, Reading)
    return Reading(
        sessions,
        rss,
        len(os.listdir("/proc/self/fd")) - 1,  # noqa: PTH208 - names; one is the listing's own
        len(asyncio.all_tasks()),
        threading.active_count(),
        objects,
        samples,
    )


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
