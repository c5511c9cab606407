"""Overview: is caching working, what does it save, is the engine alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

from grafana import expressions as promql
from grafana import kinds, parts
from grafana.names import Uid
from grafana.parts import GREEN, GREY, ORANGE, RED, dress, now, query

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import stat, statetimeline, timeseries
    from grafana_foundation_sdk.models.dashboard import Dashboard

UP = {"1": ("up", GREEN), "0": ("down", RED)}


def _banner() -> stat.Panel:
    words = {
        "1": ("SIMULATED: no model runs and the times are made up", ORANGE),
        "0": ("real engine", GREEN),
    }
    return dress(
        kinds.verdict(words, "no engine answers"),
        "What is measured",
        "SIMULATED when at least one of the targets says that it is the built-in simulator: its "
        "prefix cache is a real one, its times are made up. Grey when no engine answers.",
        "none",
        (24, 3),
        now("A", promql.SIMULATED, "engine"),
    )


def _working() -> list[stat.Panel | timeseries.Panel]:
    return [
        dress(
            kinds.figure().thresholds(parts.thresholds(parts.HIT_RATIO_STEPS)),
            "Hit ratio of the probe",
            "Share of the probe's prompt tokens that came from the prefix cache, over the "
            "averaging window. First turns are cold by design and are counted.",
            parts.RATIO,
            (5, 6),
            query("A", promql.PROBE_HIT_RATIO),
        )
        .color_scheme(parts.by_threshold())
        .links([parts.runbook("Hit ratio low", "probe-hit-ratio-low")]),
        dress(
            kinds.figure().thresholds(
                parts.thresholds(((None, RED), (0.8, ORANGE), (0.95, GREEN)))
            ),
            "Efficiency of the probe",
            "What the cache served of the most that exact-prefix caching could have served. 100 % "
            "on a sound server that reuses exact prefixes; engines that speculate or have sliding "
            "windows or linear layers reuse less by design.",
            parts.RATIO,
            (5, 6),
            query("A", promql.PROBE_EFFICIENCY),
        ).color_scheme(parts.by_threshold()),
        dress(
            kinds.figure().thresholds(parts.thresholds(parts.HIT_RATIO_STEPS)),
            "Hit ratio of users",
            "Share of users' looked-up tokens that the engine found in its prefix cache, over the "
            "averaging window: vLLM's counters less what the probe asked. Absent without users.",
            parts.RATIO,
            (5, 6),
            query("A", promql.USERS_HIT_RATIO),
        ).color_scheme(parts.by_threshold()),
        dress(
            kinds.lines()
            .thresholds(parts.thresholds(parts.HIT_RATIO_STEPS))
            .thresholds_style(kinds.lines_at_thresholds())
            .min(0)
            .max(1),
            "Hit ratio over time",
            "Probe and users, over the averaging window, with lines at 0.4, where the alert "
            "fires, and at 0.5.",
            parts.RATIO,
            (9, 6),
            query("A", promql.PROBE_HIT_RATIO, "{{target}} probe"),
            query("B", promql.USERS_HIT_RATIO, "{{target}} users"),
        ),
    ]


def _sound() -> list[stat.Panel]:
    stable = {"1": ("stable", GREEN), "0": ("history rewritten", RED)}
    wedged = {"0": ("hits", GREEN), "1": ("wedged", RED)}
    tests, leaks = "{{target}} tests", "{{target}} leaks"
    return [
        dress(
            kinds.verdict(stable, "unknown"),
            "Prompt prefix",
            "Whether every prompt of the last session of each scenario began with the turn before "
            "it. If not, the chat template rewrites history and no cache can help.",
            "none",
            (5, 4),
            now("A", f"min by (target) (vllm_probe_prefix_stable{{{promql.TARGET}}})"),
        ),
        dress(
            kinds.verdict(wedged, "unknown"),
            "Repeated prompts",
            "Wedged when an identical prompt, sent again at once with room in the cache, did not "
            "hit, and this engine process had hit before. Known cure: restart the engine.",
            "none",
            (5, 4),
            now("A", promql.gauge("vllm_probe_cache_wedged")),
        ).links([parts.runbook("Cache wedged", "cache-wedged")]),
        dress(
            kinds.figure(sparkline=False).override_by_regexp(
                "/leaks$/",
                [
                    DynamicConfigValue(id_val=key, value=value)
                    for key, value in kinds.in_steps(((None, GREEN), (1, RED)))
                    if key == "thresholds"
                ],
            ),
            "Salts kept apart",
            "Tests of one prompt under two salts in the dashboard's time range, and those in which "
            "the second salt was served tokens of the first: another tenant's, on a real server.",
            parts.COUNT,
            (6, 4),
            now("A", promql.increase("vllm_probe_isolation_tests_total", over="$__range"), tests),
            now("B", promql.increase("vllm_probe_isolation_leaks_total", over="$__range"), leaks),
        )
        .decimals(0)
        .links([parts.runbook("Isolation leak", "cache-isolation-leak")]),
        dress(
            kinds.name_of_series(((None, GREY), (1, ORANGE))),
            "Notices of the last sessions",
            "What a reader of the last session of each scenario must know, such as why a value is "
            "absent.",
            "none",
            (8, 4),
            now(
                "A",
                promql.or_reason(
                    promql.gauge("vllm_probe_notice", by="target, notice"),
                    "vllm_probe_up",
                    "notice",
                    "none",
                ),
                "{{target}}: {{notice}}",
            ),
        ),
    ]


def _savings() -> list[stat.Panel | timeseries.Panel]:
    saved = "vllm_engine_users_tokens_saved_total"
    seconds = "vllm_engine_users_prefill_seconds_saved_total"
    turns = f"vllm_probe_turn_ttft_saved_seconds{{{promql.TARGET}}}"
    ttft_saved = f"avg by (target) (avg_over_time({turns}[$window]))"
    return [
        dress(
            kinds.figure(sparkline=False),
            "Tokens saved for users",
            "Prompt tokens of users in the dashboard's time range that were served from cache "
            "instead of computed, without the probe's own.",
            parts.TOKENS,
            (4, 7),
            now("A", promql.increase(saved, over="$__range")),
        ),
        dress(
            kinds.figure(sparkline=False),
            "Prefill time saved for users",
            "Seconds of prefill that users did not need in the dashboard's time range: the tokens "
            "saved, times what a token costs this server as the probe measured it. Absent until "
            "that is known.",
            parts.SECONDS,
            (4, 7),
            now("A", promql.increase(seconds, over="$__range")),
        ),
        dress(
            kinds.figure(),
            "Time to first token saved",
            "How much earlier a turn of the probe answered than its cold control, the same "
            "messages without a cached token: the mean over the averaging window. Below 0 where "
            "chance outweighs what was saved.",
            parts.SECONDS,
            (4, 7),
            query("A", ttft_saved),
        ),
        dress(
            kinds.lines().min(0),
            "Tokens saved per second",
            "Prompt tokens served from cache over the averaging window: users', and beside them "
            "those of all that the probe asked.",
            parts.TOKENS_PER_SECOND,
            (6, 7),
            query("A", promql.rate(saved, over="$window"), "{{target}} users"),
            query(
                "B",
                promql.rate("vllm_probe_hit_tokens_total", over="$window"),
                "{{target}} probe",
            ),
        ),
        dress(
            kinds.bars_over_time(),
            "Tokens lost, by cause",
            "What the cache could have served and did not, over the averaging window.",
            parts.TOKENS,
            (6, 7),
            query("A", promql.LOST_BY_CAUSE, "{{cause}}"),
        ),
    ]


def _alive() -> list[statetimeline.Panel | timeseries.Panel]:
    failures = promql.increase("vllm_probe_session_failures_total", by="reason")
    return [
        dress(
            kinds.states(UP),
            "Engine and probe",
            "Whether the engine's metrics could be read, and whether sessions finished. A probe "
            "that is down beside an engine that is up is what /health does not show.",
            "none",
            (14, 7),
            query("A", promql.gauge("vllm_engine_up"), "{{target}} engine"),
            query("B", promql.gauge("vllm_probe_up"), "{{target}} probe"),
        ),
        dress(
            kinds.bars_over_time(),
            "Failed sessions, by reason",
            "Sessions that did not finish, over the averaging window, by the reason of the turn "
            "that broke them.",
            parts.COUNT,
            (10, 7),
            query("A", failures, "{{reason}}"),
        ).links([parts.runbook("Probe failing", "probe-failing")]),
    ]


def build() -> Dashboard:
    board = parts.frame(
        "vLLM cache: Overview",
        Uid.OVERVIEW,
        "Is prefix caching working, what does it save, and is the engine alive?",
    ).with_panel(_banner())
    return parts.in_rows(
        board,
        {
            "Is caching working?": [*_working(), *_sound()],
            "What does it save?": _savings(),
            "Is the engine alive?": _alive(),
        },
    )
