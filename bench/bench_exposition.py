"""The time to parse the metrics page of eight ranks, compared with prometheus_client's parser.

The page is one that vLLM 0.32.0 wrote, with each engine series repeated for eight ranks. Both
parsers read the same page in turn, so that other load on the machine affects both. Our parser has
two figures: `first`, without memory, as after a restart of the engine; and `next`, with changed
counters and the same configuration lines, as in every later scrape. Exits with 1 if one of them is
less than 12 times as fast as prometheus_client.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Figure
from prometheus_client.parser import text_string_to_metric_families

from exporter.engine.metrics import exposition

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDED = Path(__file__).parents[1] / "tests/engine/data/metrics_main32_after.txt"
RANKS = 8
ROUNDS = 41
AT_LEAST = 12.0
_COUNTER = re.compile(r"^(vllm:[a-z_]+_total\{[^}]*\}) (.*)$", re.MULTILINE)


def eight_ranks(page: str) -> str:
    """The page with every series of engine 0 repeated for each rank, as vLLM orders them."""
    lines: list[str] = []
    for line in page.splitlines(keepends=True):
        copies = RANKS if 'engine="0"' in line else 1
        lines += [line.replace('engine="0"', f'engine="{rank}"') for rank in range(copies)]
    return "".join(lines)


def later(page: str, scrape: int) -> bytes:
    """The page with all counters increased."""
    return _COUNTER.sub(lambda m: f"{m[1]} {float(m[2]) + 32 * scrape}", page).encode()


def theirs(data: bytes) -> None:
    """Parse the whole page with prometheus_client."""
    list(text_string_to_metric_families(data.decode()))


def ours(data: bytes) -> None:
    """Read a page as the scraper does."""
    exposition.parse(data, at=0.0, scrape_seconds=0.0)


def seconds(read: Callable[[bytes], None], data: bytes) -> float:
    """The time of one reading."""
    began = time.perf_counter()
    read(data)
    return time.perf_counter() - began


def times(page: str, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of prometheus_client's parse, of our first one, and of our next ones."""
    whole, first, following = [], [], []
    for scrape in range(rounds):
        data = later(page, scrape)
        whole.append(seconds(theirs, data))
        exposition.forget()
        first.append(seconds(ours, data))
        following.append(seconds(ours, later(page, scrape + 1)))
    return whole, first, following


def figures(rounds: int = ROUNDS) -> list[Figure]:
    """Milliseconds for a page of eight ranks."""
    _, first, following = times(eight_ranks(RECORDED.read_text()), rounds)
    title = f"reading of a page of {RANKS} ranks"
    return [
        Figure("read_first", f"{title}, first", "ms", tuple(each * 1e3 for each in first)),
        Figure("read_next", f"{title}, next", "ms", tuple(each * 1e3 for each in following)),
    ]


def main() -> int:
    """Print the figures; 1 when ours is too slow."""
    page = eight_ranks(RECORDED.read_text())
    whole, first, following = map(statistics.median, times(page, ROUNDS))
    print(f"a page of {RANKS} ranks: {len(page) / 1000:.0f} kB, {page.count(chr(10))} lines")
    print(f"prometheus_client, whole page {whole * 1e3:8.2f} ms   (medians of {ROUNDS})")
    print(f"ours, first scrape            {first * 1e3:8.2f} ms {whole / first:6.1f}x faster")
    print(f"ours, next scrapes {following * 1e3:19.2f} ms {whole / following:6.1f}x faster")
    slowest = min(whole / first, whole / following)
    print(f"at least {AT_LEAST:g}x is wanted: {'ok' if slowest >= AT_LEAST else 'TOO SLOW'}")
    return 0 if slowest >= AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
