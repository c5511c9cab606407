"""Writes docs/metrics.md from the families: `python -m exporter.metrics.reference`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from exporter.metrics.families.tables import (
    EXPORTER_FAMILIES,
    LOOP_FAMILIES,
    ON_DEMAND_FAMILIES,
    TARGET_FAMILIES,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.metrics.readers import Family
    from exporter.metrics.state.exporter import ExporterState, Loops
    from exporter.metrics.state.target import TargetState

    AnyFamily = Family[TargetState] | Family[ExporterState] | Family[Loops]

_INTRODUCTION = """\
# Metrics

`python -m exporter.metrics.reference > docs/metrics.md` writes this page from the tables in
`exporter/metrics/families`. Change the tables, not this page.

The units are seconds, tokens, bytes, and ratios from 0 to 1. An unknown value is absent: it is
not 0, and not an old value. When a session fails, the values of the last session of its scenario
disappear; when the target itself fails, those of all its scenarios disappear. When a scrape fails,
the values of the engine disappear. A counter of what the engine reports is absent until the engine
reports it. A counter of what the exporter itself does starts at 0.

Compute ratios over any time from the counters. They are correct even if an engine reports only part
of the numbers:

{ratios}

For the efficiency, do not divide cached tokens by attainable tokens: a turn whose attainable tokens
are unknown counts only in the first. Ideal minus lost tokens are the cached tokens of the turns
that count in both.
"""

RATIOS = {
    "hit ratio of the probe": (
        "rate(vllm_probe_cached_tokens_total[1h]) / rate(vllm_probe_prompt_tokens_total[1h])"
    ),
    "efficiency of the probe": (
        "(rate(vllm_probe_ideal_cached_tokens_total[1h])"
        " - sum without (cause) (rate(vllm_probe_lost_tokens_total[1h])))"
        " / rate(vllm_probe_attainable_cached_tokens_total[1h])"
    ),
    "share of the ideal that the engine's reuse rule gives up": (
        "1 - rate(vllm_probe_attainable_cached_tokens_total[1h])"
        " / rate(vllm_probe_ideal_cached_tokens_total[1h])"
    ),
    "hit ratio of users": (
        "rate(vllm_engine_users_prefix_cache_hit_tokens_total[1h])"
        " / rate(vllm_engine_users_prefix_cache_queried_tokens_total[1h])"
    ),
    "hit ratio of all traffic, with the probe's": (
        "rate(vllm_engine_prefix_cache_hit_tokens_total[1h])"
        " / rate(vllm_engine_prefix_cache_queried_tokens_total[1h])"
    ),
}

_ON_DEMAND = """\
[`/probe`](on-demand.md) answers with this family and those of the probe that a single session can
show."""

_PROCESS_FAMILIES = """\
The Prometheus client library adds the families `process_*`: memory, processor time and open files
of the exporter."""


def render() -> str:
    """The whole document."""
    ratios = [f"| {name} | `{query}` |" for name, query in RATIOS.items()]
    table = "\n".join(("| ratio | PromQL |", "| --- | --- |", *ratios))
    return "\n".join(
        (
            _INTRODUCTION.format(ratios=table),
            *_section("The probe", _of_targets("vllm_probe_"), "target"),
            *_section("The engine", _of_targets("vllm_engine_"), "target"),
            *_section("The container", _of_targets("vllm_container_"), "target"),
            *_section("On demand", ON_DEMAND_FAMILIES, "target"),
            _ON_DEMAND,
            "",
            *_section("The exporter", (*EXPORTER_FAMILIES, *LOOP_FAMILIES)),
            _PROCESS_FAMILIES,
            "",
        )
    )


def _of_targets(prefix: str) -> Iterable[AnyFamily]:
    return (family for family in TARGET_FAMILIES if family.name.startswith(prefix))


def _section(title: str, families: Iterable[AnyFamily], *leading: str) -> list[str]:
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
