"""Overview: does caching work, what does it save, is the engine alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana import alerts, kinds, parts
from grafana import expressions as promql
from grafana.names import Uid
from grafana.parts import GREEN, GREY, ORANGE, RED, dress, now, query, rows

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import stat, statetimeline, table, timeseries
    from grafana_foundation_sdk.models.dashboard import Dashboard

UP = {"1": ("up", GREEN), "0": ("down", RED)}
WEDGED = {"0": ("hits", GREEN), "1": ("wedged", RED)}


def _banner() -> stat.Panel:
    words = {
        "1": ("SIMULATED: no model runs and the times are made up", ORANGE),
        "0": ("real engine", GREEN),
        "-1": ("no engine answers", GREY),
    }
    return dress(
        kinds.verdict(words, "unknown: no value from the exporter"),
        "Real or simulated",
        "SIMULATED if at least one target says that it is the built-in simulator: its prefix cache "
        "is real, its times are made up. Grey if no engine answers, or the exporter does not.",
        "none",
        (24, 2),
        now("A", promql.SIMULATED, "engine"),
    )


def _working() -> list[stat.Panel | timeseries.Panel]:
    return [
        dress(
            kinds.by_target(kinds.grade(parts.HIT_RATIO_STEPS)),
            "Hit ratio of the last session",
            "Share of the prompt tokens of the probe's last session that came from the prefix "
            "cache, without the first turn, which is always cold. Where there was no session, that "
            "of the last heartbeat. Unknown if the session failed. The alerts use the same value. "
            "Green does not mean that it is as high as it can be: see the efficiency.",
            parts.RATIO,
            (8, 5),
            rows("A", promql.each_target(promql.LAST_SESSION)),
        ).links([parts.runbook("Hit ratio low", "probe-hit-ratio-low")]),
        dress(
            kinds.by_target(kinds.grade(parts.EFFICIENCY_STEPS)),
            "Efficiency of the last session",
            "What the cache served in the last session or heartbeat, whichever is worse, of the "
            "most that the engine's own reuse rule lets it serve (attainable). It is 100 % on a "
            "healthy server. Unknown while the rule is unknown.",
            parts.RATIO,
            (8, 5),
            rows("A", promql.each_target(promql.LAST_EFFICIENCY)),
        ).links([parts.runbook("Efficiency low", "cache-efficiency-low")]),
        dress(
            kinds.by_target(kinds.grade(parts.HIT_RATIO_STEPS)),
            "Hit ratio of users",
            "Share of the users' prompt tokens that the engine found in its prefix cache or in an "
            "external KV store, over the averaging window: vLLM's counters minus the probe's own "
            "requests. Unknown without users, and while the engine's metrics cannot be read.",
            parts.RATIO,
            (8, 5),
            rows(
                "A", promql.each_target(promql.while_up("vllm_engine_up", promql.USERS_HIT_RATIO))
            ),
        ).links([parts.runbook("Hit ratio of users low", "hit-ratio-low")]),
        dress(
            kinds.lines()
            .thresholds(parts.thresholds(parts.HIT_RATIO_STEPS))
            .thresholds_style(kinds.lines_at_thresholds())
            .min(0)
            .max(1),
            "Hit ratio over time",
            f"The probe and the users, over the averaging window, with {parts.HIT_RATIO_LINES}. "
            "Below the lower one an alert fires.",
            parts.RATIO,
            (24, 8),
            query("A", promql.PROBE_HIT_RATIO, "{{target}} probe"),
            query("B", promql.USERS_HIT_RATIO, "{{target}} users"),
        ).links([parts.runbook("Hit ratio low", "probe-hit-ratio-low")]),
    ]


def _sound() -> list[stat.Panel | table.Panel]:
    stable = {"1": ("stable", GREEN), "0": ("history changed", RED)}
    stable_sessions = f"vllm_probe_prefix_stable{{{promql.TARGET}, {promql.FULL_SESSIONS}}}"
    return [
        dress(
            kinds.by_target(kinds.verdict(stable)),
            "Prompt prefix",
            "Whether every prompt of each scenario's last session started with the turn before it. "
            "If not, the chat template changes the history, and no cache can serve what follows "
            "the change.",
            "none",
            (5, 7),
            rows("A", promql.each_target(f"min by (target) ({stable_sessions})")),
        ).links([parts.runbook("Prefix unstable", "prefix-unstable")]),
        dress(
            kinds.by_target(kinds.verdict(WEDGED)),
            "Repeated prompts",
            "Wedged: an identical prompt, sent again at once with room in the cache, did not hit, "
            "although this engine process had hits before. Only a restart of the engine is known "
            "to help.",
            "none",
            (5, 7),
            rows("A", promql.each_target(promql.WEDGED)),
        ).links([parts.runbook("Cache wedged", "cache-wedged")]),
        _isolation(),
        _notices(),
    ]


def _isolation() -> table.Panel:
    tests, leaks = (
        promql.increase(f"vllm_probe_isolation_{what}_total", over="$__range")
        for what in ("tests", "leaks")
    )
    leaked = kinds.in_steps(((None, GREEN), (1, RED)))
    kept = {"0": ("apart", GREEN), "1": ("ignored", RED)}
    ignored = promql.gauge("vllm_probe_notice", 'notice="salt_ignored"')
    last = f"{ignored} or on (target) 0 * ({promql.gauge('vllm_probe_up')} == 1)"
    return (
        dress(
            kinds.grid(),
            "Salt isolation",
            "Tests in the dashboard's time range that sent one prompt with two salts, and those "
            "where the second salt got cached tokens of the first. On a real server these would be "
            "another tenant's tokens. Salts: whether the last sessions found that new salts hit "
            "the cache, or that the engine does not know them.",
            parts.COUNT,
            (7, 7),
            rows("A", promql.each_target(tests)),
            rows("B", promql.each_target(leaks)),
            rows("C", promql.each_target(last)),
        )
        .decimals(0)
        .transformations(
            parts.transformations(
                *parts.joined(
                    "target", {"Value #A": "tests", "Value #B": "leaks", "Value #C": "salts"}
                ),
                kinds.sorted_by("target"),
            )
        )
        .override_by_name(*kinds.column("leaks", parts.COUNT, *leaked))
        .override_by_name(*kinds.column("salts", "none", *kinds.in_words(kept)))
        .links([parts.runbook("Isolation leak", "cache-isolation-leak")])
    )


def _notices() -> table.Panel:
    up = promql.gauge("vllm_probe_up")
    notices = promql.or_word(
        promql.gauge("vllm_probe_notice", 'notice!="simulated"', by="target, notice"),
        "notice",
        {"none": f"0 * ({up} == 1)", "unknown": f"NaN * ({up} == 0)"},
    )
    return dress(
        kinds.grid(),
        "Notices of the last sessions",
        "What you must know about the last session of each scenario, for example why a value is "
        "absent. Unknown if a session failed. That an engine is simulated stands above.",
        "none",
        (7, 7),
        rows("A", notices),
    ).transformations(
        parts.transformations(parts.labels("target", "notice"), kinds.sorted_by("target"))
    )


def _savings() -> list[stat.Panel | timeseries.Panel]:
    saved = "vllm_engine_users_tokens_saved_total"
    seconds = "vllm_engine_users_prefill_seconds_saved_total"
    turns = f"vllm_probe_turn_ttft_saved_seconds{{{promql.TARGET}, {promql.FULL_SESSIONS}}}"
    own = "vllm_probe_hit_tokens_total"
    in_range = {
        word: promql.increase(family, over="$__range")
        for word, family in (("users", saved), ("probe", own))
    }
    ttft_saved = f"avg by (target) (avg_over_time({turns}[$window]))"
    return [
        dress(
            kinds.by_target(kinds.figure()),
            "Tokens saved, for users and for the probe",
            "Prompt tokens that came from the cache instead of being computed, in the dashboard's "
            "time range: those of users, which are what the cache is worth, and those of the "
            "probe's own requests (with an external store's).",
            parts.TOKENS,
            (10, 7),
            rows("A", promql.each_target(promql.named("whose", in_range))),
        ),
        dress(
            kinds.by_target(kinds.figure()),
            "Prefill time saved for users",
            "Seconds of prefill that users did not wait for, in the dashboard's time range: the "
            "tokens saved times the measured seconds per token of this server. Absent until the "
            "seconds per token are known.",
            parts.SECONDS,
            (7, 7),
            rows("A", promql.each_target(promql.increase(seconds, over="$__range"))),
        ),
        dress(
            kinds.by_target(kinds.figure()),
            "Time to first token saved",
            "How much earlier a turn of the probe answered than its cold control, which is the "
            "same messages without the cache. Mean over the averaging window. It can be below 0 if "
            "chance is larger than the saving.",
            parts.SECONDS,
            (7, 7),
            rows("A", promql.each_target(promql.while_up("vllm_probe_up", ttft_saved))),
        ).links([parts.runbook("TTFT regression", "ttft-regression")]),
        dress(
            kinds.lines().min(0),
            "Tokens saved per second",
            "Prompt tokens that came from the engine's own cache, over the averaging window: those "
            "of users, and those of the probe's own requests (with an external store's).",
            parts.TOKENS_PER_SECOND,
            (24, 8),
            query("A", promql.rate(saved, over="$window"), "{{target}} users"),
            query("B", promql.rate(own, over="$window"), "{{target}} probe"),
        ),
        dress(
            kinds.areas(),
            "Tokens lost, by cause",
            "Tokens that this engine could have served from its cache but did not, over the "
            "averaging window.",
            parts.TOKENS,
            (24, 8),
            query("A", promql.LOST_BY_CAUSE, "{{target}} {{cause}}"),
        ).links([parts.runbook("Efficiency low", "cache-efficiency-low")]),
        dress(
            kinds.areas_of_rule_causes(parts.TOKENS),
            "Tokens that the reuse rule gives up, by cause",
            "Tokens that exact-prefix caching could have served, and that the engine does not "
            "serve by design: it drops the last block of a hit, does not keep answers, or reuses "
            "in large units. This is no fault. A flag can change it, at a price.",
            parts.TOKENS,
            (24, 8),
            query("A", promql.GIVEN_UP_BY_CAUSE, "{{target}} {{cause}}"),
        ),
    ]


def _alive() -> list[stat.Panel | statetimeline.Panel | table.Panel]:
    return [
        dress(
            kinds.verdict(UP),
            "Exporter",
            "Whether Prometheus can scrape the exporter (job vllm-cache-exporter). While it "
            "cannot, all that the exporter measures is unknown, and links to it do not work: what "
            "to do is on the page exporter-down of the docs.",
            "none",
            (4, 7),
            now("A", promql.EXPORTER_UP, "exporter"),
        ).links([parts.runbook("Exporter down", "exporter-down")]),
        dress(
            kinds.states(UP),
            "Engine and probe",
            "Whether the engine's metrics could be read, and whether sessions and heartbeats "
            "finished. If the engine is up but the probe is down, /health does not show the "
            "problem.",
            "none",
            (8, 7),
            query("A", promql.gauge("vllm_engine_up"), "{{target}} engine"),
            query("B", promql.gauge("vllm_probe_up"), "{{target}} probe"),
        ).links([parts.runbook("vLLM down", "vllm-down")]),
        alerts.firing(),
    ]


def _probe() -> list[stat.Panel | table.Panel | timeseries.Panel]:
    failed = promql.increase("vllm_probe_session_failures_total", by="target, reason")
    failures = promql.or_none(failed, "reason", "vllm_probe_up")
    rewritten = {
        "in the last hour": promql.gauge("vllm_probe_cache_turnover_ratio"),
        "limit": promql.gauge("vllm_probe_cache_turnover_limit_ratio"),
    }
    last = {
        "session": "vllm_probe_last_success_timestamp_seconds",
        "heartbeat": "vllm_probe_heartbeat_last_success_timestamp_seconds",
    }
    ages = {name: f"time() - {promql.gauge(family)}" for name, family in last.items()}
    waits = f"{promql.gauge('vllm_probe_paused', by='target, reason')} == 1"
    return [
        dress(
            kinds.by_target(kinds.figure()),
            "Probe rewrites per hour",
            "The share of one rank's KV cache that the probe filled with new entries in the last "
            "hour, which pushes out the oldest ones, and its limit "
            "(probe.max_cache_turnover_per_hour). Absent where the cache's capacity is unknown.",
            parts.RATIO,
            (7, 7),
            rows("A", promql.each_target(promql.named("what", rewritten))),
        ),
        dress(
            kinds.by_target(kinds.figure()),
            "Age of the last session and heartbeat",
            "How long ago the last full session and the last heartbeat that finished ended. A "
            "heartbeat is sent only where no session came for a while. On a small cache, or an "
            "engine that nobody uses, full sessions are rare and heartbeats watch the cache.",
            parts.SECONDS,
            (8, 7),
            rows("A", promql.each_target(promql.named("what", ages))),
        ).links([parts.runbook("Probe stale", "probe-stale")]),
        dress(
            kinds.messages("reason", "does not wait", GREY),
            "Why the probe waits",
            "What holds the next session back now: requests in the queue, KV cache usage, the "
            "token budget, the footprint in the cache (footprint), an engine that nobody uses "
            "(quiet), the probe's share beside busy users (share), or an engine that is asleep, "
            "paused or scaling. Budget, footprint, quiet and share are limits of the probe and no "
            "fault.",
            "none",
            (9, 7),
            rows(
                "A",
                promql.or_word(
                    waits, "reason", {"does not wait": f"0 * {promql.gauge('vllm_probe_up')}"}
                ),
            ),
        ),
        dress(
            kinds.areas().decimals(0),
            "Failed sessions, by reason",
            "Sessions that did not finish, over the averaging window, by the reason of the turn "
            "that failed.",
            parts.COUNT,
            (24, 6),
            query("A", failures, "{{target}} {{reason}}"),
        ).links([parts.runbook("Probe failing", "probe-failing")]),
    ]


def build() -> Dashboard:
    board = parts.frame(
        "vLLM cache: Overview",
        Uid.OVERVIEW,
        "Does prefix caching work, what does it save, and is the engine alive?",
    ).with_panel(_banner())
    return parts.in_rows(
        board,
        {
            "Is the engine alive?": _alive(),
            "Does caching work?": [*_working(), *_sound()],
            "What does it save?": _savings(),
            "What does the probe do, and what does it cost?": _probe(),
        },
    )
