"""Measures the exporter itself and prints one table, in less than five minutes. Linux only.

    python bench/bench.py                          everything, compared with the baseline
    python bench/bench.py --only start,pages       parts of it
    python bench/bench.py --write-baseline         the same, and write the baseline
    python bench/bench.py --markdown docs/performance.md     the same, and write the page's table

The exit code is 0 for any result. With `--fail` it is 1 if a goal is missed or a figure is worse
than the baseline. It is also 1 if something could not be measured. For every figure less is better.
The text of the page around its two marks stays.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import bench_capture
import bench_cost
import bench_exposition
import bench_fleet
import bench_https
import bench_pages
import bench_start
import bench_ttft
from bench_fleet import Fleet, Times
from figures import Baseline, Figure, as_markdown, as_text, change, rows, write_baseline
from processes import HERE, cores, load, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BASELINE = HERE / "baseline.json"
BEGIN = "<!-- bench: begin (make bench-page) -->"
END = "<!-- bench: end -->"

# Short measurements first, then those that load the machine.
PARTS: Mapping[str, Callable[[], list[Figure]]] = {
    "start": lambda: bench_start.measure(runs=11),
    "ttft": lambda: bench_ttft.figures(rounds=200, crowd_rounds=10),
    "https": lambda: bench_https.figures(rounds=200),
    "capture": lambda: bench_capture.figures(rounds=200, crowd_rounds=10, requests=10_000),
    "exposition": bench_exposition.figures,
    "cost": lambda: bench_cost.measure(runs=7),
    "pages": lambda: bench_pages.measure((1, 100, 1000), runs=7),
    "one": lambda: bench_fleet.measure(Fleet(1), Times(15, 15)),
    "hundred": lambda: bench_fleet.measure(Fleet(100), Times(20, 15)),
    "thousand": lambda: bench_fleet.measure(Fleet(1000), Times(20, 25)),
    "most": lambda: bench_fleet.measure(Fleet(5000, sessions=3600, heartbeats=120), Times(20, 20)),
    "history": lambda: bench_pages.full_history((50, 100)),
}
SMALL: Mapping[str, Callable[[], list[Figure]]] = {
    "start": lambda: bench_start.measure(runs=1),
    "ttft": lambda: bench_ttft.figures(rounds=2, crowd_rounds=1),
    "https": lambda: bench_https.figures(rounds=2),
    "capture": lambda: bench_capture.figures(rounds=2, crowd_rounds=1, requests=64),
    "exposition": lambda: bench_exposition.figures(rounds=2),
    "cost": lambda: bench_cost.measure(runs=1, scrapes=2),
    "pages": lambda: bench_pages.measure((2,), runs=1, asked=2),
    "hundred": lambda: bench_fleet.measure(Fleet(4), Times(15, 2, part=1)),
    "history": lambda: bench_pages.full_history((1, 2), sessions=2),
}
"""Every kind of measurement once, in seconds: to see that they run, not for their results."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    parts = SMALL if options.small else PARTS
    wanted = list(parts) if options.only is None else options.only.split(",")
    unknown = sorted(set(wanted) - set(parts))
    if unknown:
        sys.exit(f"--only: there is no {unknown[0]!r}; there are: {', '.join(parts)}")
    began, before = time.monotonic(), load()
    mine, others = cores()
    figures, failed = list[Figure](), dict[str, str]()
    for name in wanted:
        print(f"{name} …", file=sys.stderr, flush=True)
        os.sched_setaffinity(0, others)  # the measured process has the first core
        try:
            figures += parts[name]()
        except (RuntimeError, TimeoutError) as error:  # the other figures are still useful
            failed[name] = str(error)
        finally:
            os.sched_setaffinity(0, mine | others)
    took = time.monotonic() - began
    code = report(options, figures, conditions(took, before))
    for name, reason in failed.items():
        print(f"{name} could not be measured: {reason}", file=sys.stderr)
    return 1 if failed else code


def report(options: argparse.Namespace, figures: Sequence[Figure], when: str) -> int:
    """Print and write the results; return the exit code."""
    baseline = Baseline.read(options.baseline)
    here = machine()
    print(as_text(rows(figures, baseline)))
    print(f"\n{when}\n{in_words(here)}")
    if baseline is not None:
        print(compared_with(baseline, here))
    if options.write_baseline:
        write_baseline(options.baseline, here, figures)
    if options.markdown is not None:
        renew(options.markdown, figures, f"{when} {in_words(here)}")
    missed = [each for each in figures if each.misses_goal]
    known = {} if baseline is None else baseline.figures
    worse = [
        each
        for each in figures
        if (moved := change(each, known.get(each.key))) is not None and moved.is_regression
    ]
    return 1 if options.fail and (missed or worse) else 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--only", metavar="PARTS", help=f"some of: {','.join(PARTS)}")
    made.add_argument("--baseline", type=Path, default=BASELINE, metavar="FILE")
    made.add_argument("--write-baseline", action="store_true")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="renew the table in this page")
    made.add_argument("--fail", action="store_true", help="1 for a missed goal or a regression")
    made.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    return made


def conditions(took: float, load_before: str) -> str:
    day = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    return f"Measured at {day} UTC in {took:.0f} s; the load of the machine was {load_before}."


def in_words(facts: Mapping[str, str]) -> str:
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory']}, {facts['system']}, "
        f"Python {facts['python']}."
    )


def compared_with(baseline: Baseline, here: Mapping[str, str]) -> str:
    """Whether the comparison is one of like with like."""
    others = [name for name in here if baseline.machine.get(name) != here[name]]
    if others:
        return f"The baseline is from another machine ({', '.join(others)}): take it as a hint."
    return "The baseline is from a machine like this one."


def renew(file: Path, figures: Sequence[Figure], when: str) -> None:
    """Write the table between the marks of the page."""
    before, mark, rest = file.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        sys.exit(f"{file} lacks the marks {BEGIN} and {END}")
    table = as_markdown(rows(figures, None))
    file.write_text(f"{before}{BEGIN}\n\n{when}\n\n{table}\n\n{END}{after}", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
