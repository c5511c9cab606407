"""The times to first token of users, and how many are beyond the objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana import expressions as promql
from grafana import kinds, parts
from grafana.parts import dress, query

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import timeseries


def panels() -> list[timeseries.Panel]:
    users = "vllm_engine_users_ttft_seconds"
    times = promql.rate(f"{users}_bucket", by="target, le", over="$window")
    beyond = {
        "users": promql.beyond(users, parts.USERS_TTFT_BUCKET),
        "probe": promql.beyond("vllm_probe_ttft_seconds", parts.TTFT_BUCKET, 'cache!="cold"'),
    }
    return [
        dress(
            kinds.lines()
            .thresholds(parts.thresholds(parts.USERS_TTFT_STEPS))
            .thresholds_style(kinds.lines_at_thresholds())
            .min(0),
            "Time to first token of users",
            "Median and 95th percentile over the averaging window, as the engine measures it from "
            "the request's arrival, for all clients but the probe: of times at which the probe "
            f"sent nothing. With {parts.USERS_TTFT_LINE}. Absent without users.",
            parts.SECONDS,
            (12, 8),
            query("A", f"histogram_quantile(0.5, {times})", "{{target}} median"),
            query("B", f"histogram_quantile(0.95, {times})", "{{target}} p95"),
        ).links([parts.runbook("TTFT of users", "ttft-users-budget-burn")]),
        dress(
            kinds.lines().min(0).max(1),
            "Slower than the objective on time to first token",
            "Share of requests above the bound of their objective, over the averaging window: "
            f"users' requests above {parts.USERS_TTFT_BUCKET} s of which "
            f"{parts.USERS_TTFT_BUDGET} may be, and the probe's turns without the cold ones above "
            f"{parts.TTFT_BUCKET} s of which {parts.TTFT_BUDGET} may be.",
            parts.RATIO,
            (12, 8),
            *(
                query(ref, expr, f"{{{{target}}}} {name}")
                for ref, (name, expr) in zip("AB", beyond.items(), strict=True)
            ),
        ).links([parts.runbook("TTFT budget", "ttft-budget-burn")]),
    ]
