"""Session anatomy: one target, turn by turn, now and over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana import expressions as promql
from grafana import kinds, parts
from grafana.names import Uid
from grafana.parts import BLUE, GREEN, GREY, ORANGE, RED, dress, query, rows

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import (
        barchart,
        heatmap,
        prometheus,
        statetimeline,
        table,
        timeseries,
        trend,
    )
    from grafana_foundation_sdk.models.dashboard import Dashboard


def _of_turn(family: str) -> str:
    return promql.gauge(f"vllm_probe_turn_{family}", promql.SCENARIO, by="turn")


IDEAL_TOKENS: Final = f"{_of_turn('ideal_hit_ratio')} * {_of_turn('prompt_tokens')}"
ATTAINABLE_TOKENS: Final = f"{_of_turn('attainable_hit_ratio')} * {_of_turn('prompt_tokens')}"

# The columns of the last session: name, unit, query.
COLUMNS: Final = (
    ("prompt", parts.TOKENS, _of_turn("prompt_tokens")),
    ("ideal", parts.TOKENS, IDEAL_TOKENS),
    ("attainable", parts.TOKENS, ATTAINABLE_TOKENS),
    ("cached", parts.TOKENS, _of_turn("tokens_saved")),
    ("hit ratio", parts.RATIO, _of_turn("hit_ratio")),
    ("ideal hit ratio", parts.RATIO, _of_turn("ideal_hit_ratio")),
    ("attainable hit ratio", parts.RATIO, _of_turn("attainable_hit_ratio")),
    ("efficiency", parts.RATIO, _of_turn("efficiency_ratio")),
    ("TTFT", parts.SECONDS, _of_turn("ttft_seconds")),
    ("latency", parts.SECONDS, _of_turn("latency_seconds")),
    ("completion", parts.TOKENS, _of_turn("completion_tokens")),
)
# The other headings have room for their words.
WIDTHS: Final = {"attainable hit ratio": (("custom.width", 145),)}


def _columns(*wanted: str) -> tuple[list[prometheus.Dataquery], tuple[parts.Transformation, ...]]:
    """Queries for some columns, and the transformations to one table with a row per turn."""
    chosen = [column for column in COLUMNS if column[0] in wanted]
    refs = {chr(ord("A") + index): column for index, column in enumerate(chosen)}
    queries = [rows(ref, expr) for ref, (_, _, expr) in refs.items()]
    return queries, parts.joined("turn", {f"Value #{ref}": c[0] for ref, c in refs.items()})


def _last_session() -> list[barchart.Panel | trend.Panel]:
    tokens, in_tokens = _columns("prompt", "ideal", "attainable", "cached")
    ratios, in_ratios = _columns("hit ratio", "ideal hit ratio", "attainable hit ratio")
    times, in_times = _columns("TTFT", "latency")
    return [
        dress(
            kinds.bars_by("turn", *in_tokens),
            "Tokens by turn: prompt, ideal, attainable, cached",
            "For each turn of the scenario's last session: the tokens of the prompt, how many of "
            "them exact-prefix caching could have served (ideal), how many the engine's own reuse "
            "rule lets it serve (attainable), and how many came from the cache.",
            parts.TOKENS,
            (8, 9),
            *tokens,
        ),
        dress(
            kinds.curve_by_turn(*in_ratios)
            .thresholds(parts.thresholds(parts.HIT_RATIO_STEPS))
            .thresholds_style(kinds.lines_at_thresholds())
            .color_scheme(parts.fixed(BLUE))
            .override_by_name(
                *kinds.column("ideal hit ratio", parts.RATIO, kinds.color(GREY), kinds.DASHED)
            )
            .override_by_name(
                *kinds.column("attainable hit ratio", parts.RATIO, kinds.color(GREEN), kinds.DASHED)
            )
            .min(0)
            .max(1),
            "Hit ratio by turn",
            "Cached / prompt tokens of each turn of the last session, beside the ideal and what "
            f"the engine's reuse rule lets it serve, with {parts.HIT_RATIO_LINES}. The first turn "
            "is always 0, because its salt is new.",
            parts.RATIO,
            (8, 9),
            *ratios,
        ).links([parts.runbook("Hit ratio low", "probe-hit-ratio-low")]),
        dress(
            kinds.bars_by("turn", *in_times),
            "Times by turn: first token, whole answer",
            "Time to first token, and to the end of the answer, of each turn of the last session, "
            "as the client saw them.",
            parts.SECONDS,
            (8, 9),
            *times,
        ),
    ]


def _all_values() -> table.Panel:
    queries, in_table = _columns(*(name for name, _, _ in COLUMNS))
    panel = dress(
        kinds.grid(),
        "The last session in figures",
        "Every value of the scenario's last session. A value that is not known is absent. If that "
        "session failed, all of them are absent.",
        "none",
        (24, 11),
        *queries,
    ).transformations(
        parts.transformations(*in_table, *kinds.in_order_of("turn")),
    )
    for name, unit, _ in COLUMNS:
        panel = panel.override_by_name(*kinds.column(name, unit, *WIDTHS.get(name, ())))
    return panel.override_by_name(*kinds.column("turn", "none", ("custom.width", 50)))


def _ratios_over_time() -> list[timeseries.Panel]:
    lost, given_up = (
        promql.or_none(
            promql.increase("vllm_probe_lost_tokens_total", causes, by="target, cause")
            + f" / on (target) group_left () ({whole} > 0)",
            "cause",
            "vllm_probe_up",
        )
        for causes, whole in (
            (promql.LOST, promql.ATTAINABLE_TOKENS),
            (promql.GIVEN_UP_BY_RULE, promql.IDEAL_TOKENS),
        )
    )
    return [
        dress(
            kinds.lines()
            .thresholds(parts.thresholds(parts.HIT_RATIO_STEPS))
            .thresholds_style(kinds.lines_at_thresholds())
            .min(0)
            .max(1),
            "Hit ratio of each turn over time",
            f"The same turn from session to session, with {parts.HIT_RATIO_LINES}. A gap means "
            "that a session failed, or that the server did not report cached tokens.",
            parts.RATIO,
            (8, 9),
            query("A", _of_turn("hit_ratio"), "turn {{turn}}"),
        ),
        dress(
            kinds.areas().axis_soft_max(0.1),
            "Share of the attainable tokens that was lost, by cause",
            "Tokens that this engine could have served but did not, as a share of all that it "
            "could have served, over the averaging window.",
            parts.RATIO,
            (8, 9),
            query("A", lost, "{{cause}}"),
        ).links([parts.runbook("Efficiency low", "cache-efficiency-low")]),
        dress(
            kinds.areas_of_rule_causes(parts.RATIO).axis_soft_max(0.1),
            "Share of the ideal that the reuse rule gives up, by cause",
            "Tokens that exact-prefix caching could have served, and that the engine does not "
            "serve by design, as a share of the ideal, over the averaging window. This is no "
            "fault.",
            parts.RATIO,
            (8, 9),
            query("A", given_up, "{{cause}}"),
        ),
    ]


def _first_tokens() -> list[heatmap.Panel | timeseries.Panel]:
    heats = [
        dress(
            kinds.heat(),
            f"Time to first token, {cache} turns",
            f"Turns {meaning}: how many of them took how long to their first token, over time.",
            parts.SECONDS,
            (12, 9),
            parts.buckets(promql.buckets("vllm_probe_ttft_seconds", f'cache="{cache}"')),
        ).links([parts.runbook("TTFT regression", "ttft-regression")])
        for cache, meaning in (("warm", "with cached tokens"), ("cold", "without a cached token"))
    ]
    curves = dress(
        kinds.lines()
        .thresholds(parts.thresholds(parts.TTFT_STEPS))
        .thresholds_style(kinds.lines_at_thresholds())
        .min(0),
        "Time to first token, warm and cold",
        "Median and 90th percentile over the averaging window, as exact as the histogram's buckets "
        f"allow, with {parts.TTFT_LINE}. If warm is above cold, the cache hits but does not help.",
        parts.SECONDS,
        (12, 9),
        *(
            query(ref, promql.ttft_quantile(quantile, cache), f"{cache} {name}")
            for ref, cache, quantile, name in (
                ("A", "warm", 0.5, "median"),
                ("B", "warm", 0.9, "p90"),
                ("C", "cold", 0.5, "median"),
                ("D", "cold", 0.9, "p90"),
            )
        ),
    ).links([parts.runbook("TTFT regression", "ttft-regression")])
    by_turn = dress(
        kinds.lines().min(0),
        "Time to first token of each turn",
        "The same turn from session to session, as the client saw it. Later turns have longer "
        "prompts. With a working cache their time grows only a little.",
        parts.SECONDS,
        (12, 9),
        query("A", _of_turn("ttft_seconds"), "turn {{turn}}"),
    ).links([parts.runbook("TTFT budget", "ttft-budget-burn")])
    return [*heats, curves, by_turn]


def _controls() -> list[barchart.Panel | timeseries.Panel]:
    turns = f"{promql.TARGET}, {promql.SCENARIO}"
    averaged = {
        name: f"avg by (turn) (avg_over_time({family}{{{turns}}}[$window]))"
        for name, family in (
            ("cold control", "vllm_probe_turn_cold_ttft_seconds"),
            ("turn itself", "vllm_probe_turn_ttft_seconds"),
        )
    }
    refs = dict(zip("AB", averaged, strict=True))
    side_by_side = parts.joined("turn", {f"Value #{ref}": name for ref, name in refs.items()})
    outcomes = promql.or_none(
        promql.increase("vllm_probe_controls_total", by="outcome"), "outcome", "vllm_probe_up"
    )
    return [
        dress(
            kinds.bars_by("turn", *side_by_side),
            "Time to first token with and without the cache, by turn",
            "Turns with a cold control, over the averaging window: the turn itself, and the same "
            "messages with a new salt, so without the cache. Only a random share of turns has a "
            "control.",
            parts.SECONDS,
            (14, 9),
            *(rows(ref, averaged[name]) for ref, name in refs.items()),
        ),
        dress(
            kinds.areas().decimals(0),
            "Cold controls, by outcome",
            "Controls that were sent, over the averaging window. Only controls that were really "
            "cold count.",
            parts.COUNT,
            (10, 9),
            query("A", outcomes, "{{outcome}}"),
        ),
    ]


def _probe_load() -> list[barchart.Panel | statetimeline.Panel | timeseries.Panel]:
    consumed = promql.rate("vllm_probe_consumed_tokens_total", over="$window")
    budget = promql.gauge("vllm_probe_budget_tokens_per_hour")
    kept = promql.gauge("vllm_probe_retention_ratio", by="gap_seconds")
    idle, lifetime = (
        promql.rate(f"vllm_engine_kv_block_{what}_seconds_bucket", by="le", over="$window")
        for what in ("idle_before_evict", "lifetime")
    )
    held = {"0": ("runs", GREEN), "1": ("waits", ORANGE)}
    return [
        dress(
            kinds.bars_by(
                "gap_seconds",
                (
                    "organize",
                    {
                        "excludeByName": {"Time": True},
                        "indexByName": {},
                        "renameByName": {"Value": "still cached"},
                    },
                ),
            )
            .min(0)
            .max(1),
            "Still cached after an idle gap of seconds",
            "Share of a prefix that was still cached after it was not used for so many seconds, at "
            "the last measurement. It shows how long an agent's tool may take.",
            parts.RATIO,
            (6, 7),
            rows("A", kept),
        ).links([parts.runbook("Retention short", "cache-retention-short")]),
        dress(
            kinds.lines().min(0).no_value("unknown: needs --kv-cache-metrics, and evictions"),
            "Blocks of all traffic when they are evicted",
            "How long evicted blocks had been in the cache, and how long they had not been used, "
            "as the engine samples them with --kv-cache-metrics. Empty without that flag.",
            parts.SECONDS,
            (6, 7),
            query("A", f"histogram_quantile(0.5, {idle})", "unused, median"),
            query("B", f"histogram_quantile(0.1, {idle})", "unused, shortest tenth"),
            query("C", f"histogram_quantile(0.5, {lifetime})", "lifetime, median"),
        ),
        dress(
            kinds.states(held),
            "Why the probe waits",
            "The probe waits while requests queue in the engine, while running requests fill its "
            "KV cache, while the engine sleeps, is paused or is being scaled, and while a limit of "
            "the probe holds it back: the token budget, its footprint in the cache, an engine that "
            "nobody uses (quiet), its share beside users (share). Heartbeats may go on.",
            "none",
            (6, 7),
            query("A", promql.gauge("vllm_probe_paused", by="target, reason"), "{{reason}}"),
        ),
        dress(
            kinds.lines().min(0).color_scheme(parts.fixed(ORANGE)),
            "Load of the probe on the engine",
            "Prompt and completion tokens per second of all the probe's requests, over the "
            "averaging window, and the budget. This is the price of measuring.",
            parts.TOKENS_PER_SECOND,
            (6, 7),
            query("A", consumed, "probe"),
            query("B", f"{budget} / 3600", "budget"),
        ).override_by_name(*kinds.column("budget", parts.TOKENS_PER_SECOND, kinds.color(GREY))),
    ]


def _rest() -> list[statetimeline.Panel | timeseries.Panel]:
    stable = {"1": ("stable", GREEN), "0": ("history changed", RED)}
    between = promql.rate("vllm_probe_inter_token_seconds_bucket", by="le", over="$window")
    return [
        dress(
            kinds.states(stable),
            "Prompt prefix",
            "Whether each prompt started with the turn before it. If the chat template changes the "
            "history, the ideal itself falls.",
            "none",
            (12, 7),
            query(
                "A",
                promql.gauge("vllm_probe_prefix_stable", by="target, scenario"),
                "{{scenario}}",
            ),
        ).links([parts.runbook("Prefix unstable", "prefix-unstable")]),
        dress(
            kinds.lines().min(0),
            "Time between tokens",
            "Median and 99th percentile of the time from one chunk of text to the next, over the "
            "averaging window. This is decoding; no prefix cache makes it faster.",
            parts.SECONDS,
            (12, 7),
            query("A", f"histogram_quantile(0.5, {between})", "median"),
            query("B", f"histogram_quantile(0.99, {between})", "p99"),
        ),
    ]


def build() -> Dashboard:
    board = parts.frame(
        "vLLM cache: Session anatomy",
        Uid.SESSION,
        "The synthetic agent sessions of one target, turn by turn: what was cached, what could "
        "have been cached, and the time to first token.",
        one_target=True,
    )
    return parts.in_rows(
        board,
        {
            "The last session": [*_last_session(), _all_values()],
            "Hit ratio over time": _ratios_over_time(),
            "Time to first token": [*_first_tokens(), *_controls()],
            "Prefix and decoding": _rest(),
            "Load of the probe": _probe_load(),
        },
    )
