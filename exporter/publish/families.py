"""Every metric family: name, type, where its values come from, and its words.

A value that is not known is not on the page, and a family without any value is not either.
The families of the container stand in container_families.py, those of cost in cost_families.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.publish.container_families import CONTAINER
from exporter.publish.cost_families import ENGINE_COST, PROBE_COST
from exporter.publish.discovery_families import DISCOVERY
from exporter.publish.readers import (
    Family,
    build_info,
    by,
    by_loop,
    by_outcome,
    by_scenario,
    each_turn,
    engine_info,
    last_session,
    live_engine,
    notices,
    of_exporter,
    one,
    scenarios_up,
    scrape,
    totals,
)

if TYPE_CHECKING:
    from exporter.publish.readers import Value
    from exporter.publish.state import ExporterState, Loops, TargetState


def _probe_up(target: TargetState) -> Value:
    return None if target.last_session is None else float(target.last_session.failure is None)


def _engine_up(target: TargetState) -> Value:
    return None if target.engine is None else float(target.engine.failure is None)


PROBE: Final[tuple[Family[TargetState], ...]] = (
    Family(
        "vllm_probe_up",
        "gauge",
        one(_probe_up),
        "1 when the last session finished, 0 when it failed, absent before the first one ended.",
    ),
    Family(
        "vllm_probe_sessions_total",
        "counter",
        one(lambda t: t.sessions),
        "Sessions that ended, finished or failed.",
    ),
    Family(
        "vllm_probe_session_failures_total",
        "counter",
        by("reason", lambda t: {str(k): v for k, v in t.failures.items()}),
        "Sessions that failed, by the reason of the turn that did not finish.",
    ),
    Family(
        "vllm_probe_last_success_timestamp_seconds",
        "gauge",
        one(lambda t: t.last_success_time),
        "Unix time at which the last finished session ended.",
    ),
    Family(
        "vllm_probe_scenario_up",
        "gauge",
        scenarios_up(),
        "1 when the last session of this scenario finished, 0 when it failed. When a session shows "
        "that the target itself fails, those of its other scenarios are absent.",
    ),
    Family(
        "vllm_probe_session_duration_seconds",
        "gauge",
        last_session(lambda s: s.duration_seconds),
        "How long the last session took. Absent when it failed, as every value of a last session.",
    ),
    Family(
        "vllm_probe_notice",
        "gauge",
        notices(),
        "1 for each thing a reader of the last session of any scenario must know, such as why a "
        "value is absent.",
    ),
    Family(
        "vllm_probe_turn_hit_ratio",
        "gauge",
        each_turn(lambda turn: turn.hit_ratio),
        "Cached / prompt tokens of this turn of the last session of this scenario. "
        "Absent where the server does not report cached tokens.",
    ),
    Family(
        "vllm_probe_turn_ideal_hit_ratio",
        "gauge",
        each_turn(lambda turn: turn.ideal_hit_ratio),
        "The highest hit ratio that exact-prefix caching could have given this turn.",
    ),
    Family(
        "vllm_probe_turn_efficiency_ratio",
        "gauge",
        each_turn(lambda turn: turn.efficiency_ratio),
        "Cached / ideal tokens of this turn. Absent where the ideal is 0 or unknown.",
    ),
    Family(
        "vllm_probe_turn_tokens_saved",
        "gauge",
        each_turn(lambda turn: turn.tokens_saved),
        "Prompt tokens of this turn that were served from cache.",
    ),
    Family(
        "vllm_probe_turn_prompt_tokens",
        "gauge",
        each_turn(lambda turn: turn.prompt_tokens),
        "Prompt tokens of this turn, as the server counted them.",
    ),
    Family(
        "vllm_probe_turn_completion_tokens",
        "gauge",
        each_turn(lambda turn: turn.completion_tokens),
        "Completion tokens of this turn, as the server counted them.",
    ),
    Family(
        "vllm_probe_turn_ttft_seconds",
        "gauge",
        each_turn(lambda turn: turn.ttft_seconds),
        "Time from the sent request to the first generated text of this turn, seen by the client.",
    ),
    Family(
        "vllm_probe_turn_latency_seconds",
        "gauge",
        each_turn(lambda turn: turn.latency_seconds),
        "Time from the sent request to the end of the answer of this turn, seen by the client.",
    ),
    Family(
        "vllm_probe_prompt_tokens_total",
        "counter",
        one(lambda t: t.sums.prompt_tokens),
        "Prompt tokens of the turns whose cached tokens are known, those of failed sessions too. "
        "Hit ratio over any time: rate of cached / rate of prompt tokens. "
        "All tokens of the probe: vllm_probe_consumed_tokens_total.",
    ),
    Family(
        "vllm_probe_cached_tokens_total",
        "counter",
        one(lambda t: t.sums.cached_tokens),
        "Cached tokens of the same turns as vllm_probe_prompt_tokens_total. "
        "Absent until a server reports some.",
    ),
    Family(
        "vllm_probe_ideal_cached_tokens_total",
        "counter",
        one(lambda t: t.sums.ideal_cached_tokens),
        "The most that exact-prefix caching could have served, of the turns whose cached and ideal "
        "tokens are known. Efficiency over any time: "
        "1 - rate of lost tokens, summed over causes / rate of ideal tokens.",
    ),
    Family(
        "vllm_probe_lost_tokens_total",
        "counter",
        by("cause", lambda t: {str(k): v for k, v in t.sums.lost_tokens.items()}),
        "Ideal minus cached tokens, by cause, "
        "of the same turns as vllm_probe_ideal_cached_tokens_total.",
    ),
    Family(
        "vllm_probe_prefix_stable",
        "gauge",
        by_scenario(lambda s: None if s.prefix is None else s.prefix.stable),
        "1 when every prompt of the last session of this scenario began with the turn before it, "
        "0 when the chat template rewrote history. Absent where token ids are unknown.",
    ),
    Family(
        "vllm_probe_cache_wedged",
        "gauge",
        one(lambda t: t.wedged),
        "1 when an identical prompt, sent again, did not hit although there was room and this "
        "engine process had hit before; 0 when one hit: by the latest session or isolation test "
        "that could tell. Absent where none could, after a restart, and while the target fails.",
    ),
    Family(
        "vllm_probe_isolation_tests_total",
        "counter",
        one(lambda t: t.isolation_tests),
        "Tests of one prompt under two salts that could tell whether the cache keeps them apart.",
    ),
    Family(
        "vllm_probe_isolation_leaks_total",
        "counter",
        one(lambda t: t.isolation_leaks),
        "Those of them in which a salt never used before was served tokens from cache.",
    ),
    Family(
        "vllm_probe_completion_tokens_total",
        "counter",
        one(lambda t: t.sums.completion_tokens),
        "Completion tokens of all turns, those of failed sessions too.",
    ),
    Family(
        "vllm_probe_consumed_tokens_total",
        "counter",
        one(lambda t: t.sums.consumed_tokens),
        "Prompt and completion tokens of all turns and of the requests beside them: what the probe "
        "asked of the engine, whether or not the server says how many were cached.",
    ),
    Family(
        "vllm_probe_queried_tokens_total",
        "counter",
        one(lambda t: t.own.queried_tokens if t.own.requests else None),
        "Prompt tokens that the engine looked up in its prefix cache for the exporter: those of "
        "turns, cold controls, repeats, isolation and retention. The exporter's own share of "
        "vllm_engine_prefix_cache_queried_tokens_total.",
    ),
    Family(
        "vllm_probe_hit_tokens_total",
        "counter",
        one(lambda t: t.own.hit_tokens if t.own.told else None),
        "Those of them that came from cache, as far as that is known. The exporter's own share of "
        "vllm_engine_prefix_cache_hit_tokens_total.",
    ),
    Family(
        "vllm_probe_ttft_seconds",
        "histogram",
        by("cache", lambda t: {str(k): v for k, v in t.ttft.items()}),
        "Time to first token of all turns: cold without a cached token, warm with some, "
        "unknown where the server does not report cached tokens.",
    ),
    Family(
        "vllm_probe_inter_token_seconds",
        "histogram",
        one(lambda t: t.inter_token),
        "Time between one chunk of generated text and the next, of all turns.",
    ),
    *PROBE_COST,
)

ENGINE: Final[tuple[Family[TargetState], ...]] = (
    Family(
        "vllm_engine_up",
        "gauge",
        one(_engine_up),
        "1 when the last scrape of the engine's own metrics succeeded. "
        "While it is 0 every other family of the engine but its restarts and failures is absent.",
    ),
    Family(
        "vllm_engine_scrape_failures_total",
        "counter",
        by("reason", lambda t: None if t.engine is None else dict(t.scrape_failures)),
        "Readings of the engine's own metrics that failed, by reason.",
    ),
    Family(
        "vllm_engine_scrape_duration_seconds",
        "gauge",
        scrape(lambda s: s.scrape_seconds),
        "How long the last scrape of the engine's own metrics took.",
    ),
    Family(
        "vllm_engine_restarts_total",
        "counter",
        one(lambda t: None if t.engine is None else t.engine.restarts),
        "Restarts of the engine's process that were seen, by its start time.",
    ),
    Family(
        "vllm_engine_info",
        "gauge",
        engine_info(),
        "1, with what the engine says of itself as labels; a label is empty where it is unknown.",
    ),
    Family(
        "vllm_engine_page_engines",
        "gauge",
        scrape(lambda s: max(1, len(s.parts))),
        "Engines whose series are on the page that is read. More than 1 where a router shows them, "
        "told apart by labels that vLLM does not have: the totals are then of all of them.",
    ),
    Family(
        "vllm_engine_prefix_cache_queried_tokens_total",
        "counter",
        totals(lambda total: total.queried_tokens),
        "Tokens of all traffic that were looked up in the prefix cache, all ranks together, "
        "carried over restarts. Without those that its prompts do not explain: "
        "vllm_engine_lookups_recounted.",
    ),
    Family(
        "vllm_engine_prefix_cache_hit_tokens_total",
        "counter",
        totals(lambda total: total.hit_tokens),
        "Tokens of all traffic that were found in the prefix cache, all ranks together, carried "
        "over restarts. Of the same lookups as vllm_engine_prefix_cache_queried_tokens_total.",
    ),
    Family(
        "vllm_engine_lookups_recounted",
        "gauge",
        one(lambda t: None if (view := live_engine(t)) is None else float(view.recounted)),
        "1 when, within the last hour, the engine counted more lookups in the prefix cache than "
        "its prompts explain: vLLM before 0.27 counts a waiting request again at each step, and "
        "prompts given up before their first token count too. No figure has those lookups or the "
        "hits among them.",
    ),
    Family(
        "vllm_engine_prefix_cache_hit_ratio",
        "gauge",
        by("window", lambda t: None if (view := live_engine(t)) is None else view.hit_ratios),
        "Hit / queried tokens of all traffic in the window. Absent without traffic in it.",
    ),
    Family(
        "vllm_engine_prefix_cache_reported_hit_ratio",
        "gauge",
        scrape(lambda s: s.hit_rate_gauge),
        "The hit rate that vLLM computes itself: the V0 engine of 0.8.5 to 0.9.1 started with "
        "--show-hidden-metrics-for-version.",
    ),
    Family(
        "vllm_engine_tokens_saved_total",
        "counter",
        totals(lambda total: total.saved_tokens),
        "Prompt tokens of all traffic that were served from cache instead of computed, all ranks "
        "together, carried over restarts. Before vLLM 0.16 "
        "vllm_engine_prefix_cache_hit_tokens_total.",
    ),
    Family(
        "vllm_engine_kv_cache_usage_ratio",
        "gauge",
        scrape(lambda s: s.kv_cache_usage_ratio),
        "Share of the KV cache that running requests hold, the ranks' mean. "
        "0 when idle, even with a cache full of reusable blocks.",
    ),
    Family(
        "vllm_engine_kv_cache_capacity_tokens",
        "gauge",
        scrape(lambda s: None if s.cache is None else s.cache.capacity_tokens),
        "Tokens that the KV cache of one rank has room for. Before vLLM 0.24 its blocks times "
        "their size, which is too much where layers are of several kinds.",
    ),
    Family(
        "vllm_engine_requests_running",
        "gauge",
        scrape(lambda s: s.requests_running),
        "Requests that the engine computes at the moment, all ranks together.",
    ),
    Family(
        "vllm_engine_requests_waiting",
        "gauge",
        scrape(lambda s: s.requests_waiting),
        "Requests that wait in the engine's queue, all ranks together.",
    ),
    Family(
        "vllm_engine_preemptions_total",
        "counter",
        totals(lambda total: total.preemptions),
        "Requests that lost their blocks to others for lack of room in the KV cache.",
    ),
    Family(
        "vllm_engine_prompt_tokens_total",
        "counter",
        totals(lambda total: total.prompt_tokens),
        "Prompt tokens of all traffic, carried over restarts.",
    ),
    Family(
        "vllm_engine_generation_tokens_total",
        "counter",
        totals(lambda total: total.generation_tokens),
        "Generated tokens of all traffic, carried over restarts.",
    ),
    *ENGINE_COST,
)

EXPORTER: Final[tuple[Family[ExporterState], ...]] = (
    Family(
        "vllm_exporter_build_info",
        "gauge",
        build_info(),
        "1, with the versions of the exporter and of Python as labels.",
    ),
    Family(
        "vllm_exporter_targets",
        "gauge",
        of_exporter(lambda state: state.targets),
        "Targets that are measured now.",
    ),
    Family(
        "vllm_exporter_whole_page",
        "gauge",
        of_exporter(lambda state: state.whole_page),
        "1 while /metrics has the families of every target; 0 while there are more targets than "
        "metrics.whole_page_targets, whose families stand on /metrics?target=NAME alone.",
    ),
    Family(
        "vllm_exporter_web_config_in_force",
        "gauge",
        of_exporter(lambda state: state.web_config_in_force),
        "1 while what the web configuration's file says is in force, 0 while a mistake in it keeps "
        "the earlier one; absent without such a file.",
    ),
    Family(
        "vllm_exporter_config_last_reload_successful",
        "gauge",
        of_exporter(lambda state: state.reloads.last_successful),
        "1 while the configuration as it was last read is in force, 0 while a mistake in it keeps "
        "the earlier one.",
    ),
    Family(
        "vllm_exporter_config_last_reload_success_timestamp_seconds",
        "gauge",
        of_exporter(lambda state: state.reloads.last_success_time),
        "Unix time at which the configuration in force was read.",
    ),
    Family(
        "vllm_exporter_config_reloads_total",
        "counter",
        by_outcome(lambda state: state.reloads.outcomes),
        "Times that the configuration was read again, by outcome.",
    ),
    *DISCOVERY,
)

LOOPS: Final[tuple[Family[Loops], ...]] = (
    Family(
        "vllm_exporter_loop_failures_total",
        "counter",
        by_loop(lambda loops: loops.failures),
        "Rounds of a loop that ended in an error of the exporter's own. "
        "The loops of a target are called KIND:TARGET, and stand on the page of the target.",
    ),
    Family(
        "vllm_exporter_loop_last_run_timestamp_seconds",
        "gauge",
        by_loop(lambda loops: loops.last_run),
        "Unix time at which a loop last came round.",
    ),
)

TARGET_FAMILIES: Final = (*PROBE, *ENGINE, *CONTAINER)
