"""Reads one URL five times a second, in a process of its own, and writes down how long it took.

A line for each reading: when it began (the system's monotonic clock), milliseconds, the status.
"""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request


def main(url: str) -> None:
    while True:
        began = time.monotonic()
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                answer.read()
                status = answer.status
        except OSError:
            status = 0
        took = time.monotonic() - began
        print(began, took * 1000, status, flush=True)  # noqa: T201 - what it is for
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1])
