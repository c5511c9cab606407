"""Writes docs/metrics.md from the tables of families: `python -m exporter.metrics.reference`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from exporter.metrics.families.container import CONTAINER
from exporter.metrics.families.engine import ENGINE
from exporter.metrics.families.tables import EXPORTER, LOOPS, PROBE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.metrics.readers import Family
    from exporter.metrics.state.exporter import ExporterState, Loops
    from exporter.metrics.state.target import TargetState

    AnyFamily = Family[TargetState] | Family[ExporterState] | Family[Loops]

_INTRODUCTION = """\
# Metrics

Written by `python -m exporter.metrics.reference` from the tables in
`exporter/metrics/families`; change the tables, not this file.

Base units: seconds, tokens, bytes, ratios from 0 to 1. A value that is not known is absent: it is
neither 0 nor the last one that was known. When a session fails, the values of the last session of
its scenario go, and where the target itself fails, those of all scenarios; when a scrape fails, the
values of the engine go. Counters that come from a sum of what an engine reports are absent until it
reports something; counts of the exporter's own begin at 0.

Ratios over any time come from the counters, and are right even where an engine reported only part:

{ratios}

For the efficiency, do not divide cached by ideal tokens: a turn whose ideal is unknown counts in
the one and not in the other.
"""

RATIOS = {
    "hit ratio of the probe": (
        "rate(vllm_probe_cached_tokens_total[1h]) / rate(vllm_probe_prompt_tokens_total[1h])"
    ),
    "efficiency of the probe": (
        "1 - sum without (cause) (rate(vllm_probe_lost_tokens_total[1h]))"
        " / rate(vllm_probe_ideal_cached_tokens_total[1h])"
    ),
    "hit ratio of users": (
        "rate(vllm_engine_users_prefix_cache_hit_tokens_total[1h])"
        " / rate(vllm_engine_users_prefix_cache_queried_tokens_total[1h])"
    ),
    "hit ratio of all traffic, the probe's own too": (
        "rate(vllm_engine_prefix_cache_hit_tokens_total[1h])"
        " / rate(vllm_engine_prefix_cache_queried_tokens_total[1h])"
    ),
}

_EXPORTER_WORDS = """\
The families `process_*` of the Prometheus client library stand beside these: memory, processor time
and open files of the exporter."""


def render() -> str:
    """The whole document."""
    ratios = [f"| {name} | `{query}` |" for name, query in RATIOS.items()]
    table = "\n".join(("| ratio | PromQL |", "| --- | --- |", *ratios))
    return "\n".join(
        (
            _INTRODUCTION.format(ratios=table),
            *_section("The probe", PROBE, "target"),
            *_section("The engine", ENGINE, "target"),
            *_section("The container", CONTAINER, "target"),
            *_section("The exporter", (*EXPORTER, *LOOPS)),
            _EXPORTER_WORDS,
            "",
        )
    )


def _section(
    title: str,
    families: Iterable[AnyFamily],
    *leading: str,
) -> list[str]:
    rows = [_row(family, leading) for family in families]
    return [
        f"## {title}",
        "",
        "| family | type | labels | meaning |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
    ]


def _row(family: AnyFamily, leading: tuple[str, ...]) -> str:
    labels = ", ".join(f"`{label}`" for label in (*leading, *family.reader.labels))
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help} |"


if __name__ == "__main__":
    sys.stdout.write(render())
