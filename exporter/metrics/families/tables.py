"""Every metric family: name, type, where its values come from, and its words.

A value that is not known is not on the page, and a family without any value is not either.
Those of the engine stand in engine_families.py, those of the container in
container_families.py, those of cost in cost_families.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import ProcessCollector

from exporter.metrics.families.container import CONTAINER
from exporter.metrics.families.cost import PROBE_COST
from exporter.metrics.families.discovery import DISCOVERY
from exporter.metrics.families.engine import ENGINE
from exporter.metrics.readers import (
    Family,
    build_info,
    by,
    by_loop,
    by_outcome,
    by_scenario,
    each_turn,
    last_session,
    notices,
    of_exporter,
    one,
    scenarios_up,
)

if TYPE_CHECKING:
    from exporter.metrics.readers import Value
    from exporter.metrics.state.exporter import ExporterState, Loops
    from exporter.metrics.state.target import TargetState


def _probe_up(target: TargetState) -> Value:
    return None if target.last_session is None else float(target.last_session.failure is None)


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
        "vllm_probe_consecutive_failures",
        "gauge",
        one(lambda t: None if t.last_session is None else t.failures_in_a_row),
        "Sessions that failed since the last one that finished, of whatever scenario.",
    ),
    Family(
        "vllm_probe_interval_seconds",
        "gauge",
        one(lambda t: t.interval_seconds),
        "From session to session, as configured; what holds the probe back makes it longer.",
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

PROCESS: Final = ProcessCollector(registry=None)
"""The families `process_*` of prometheus_client: memory, processor time, open files."""

TARGET_FAMILIES: Final = (*PROBE, *ENGINE, *CONTAINER)
