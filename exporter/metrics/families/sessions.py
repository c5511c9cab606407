"""The families of the probe's sessions and turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.metrics.readers import (
    Reader,
    by,
    by_scenario,
    counter,
    each_turn,
    gauge,
    histogram,
    last_session,
    one,
)
from exporter.model.probe import Due
from exporter.model.reuse import RuleCause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.metrics.readers import Family, Reading
    from exporter.metrics.state.probe_sums import ProbeSums
    from exporter.metrics.state.target import TargetState


_RULE_CAUSES = ", ".join(RuleCause)


def _by_rank(value: Callable[[ProbeSums], float | None]) -> Reader[TargetState]:
    return by(
        "data_parallel_rank",
        lambda t: {str(rank): value(sums) for rank, sums in sorted(t.rank_sums.items())},
    )


def _by_model(value: Callable[[ProbeSums], float | None]) -> Reader[TargetState]:
    """Only where several models were played: a single one has the sums of the target."""
    return by(
        "model",
        lambda t: (
            {model: value(sums) for model, sums in sorted(t.model_sums.items())}
            if len(t.model_sums) > 1
            else None
        ),
    )


def _notices(target: TargetState) -> Iterator[Reading]:
    for notice in sorted({notice for each in target.finished for notice in each.notices}):
        yield (notice,), 1


SESSIONS: Final[tuple[Family[TargetState], ...]] = (
    gauge(
        "vllm_probe_up",
        one(lambda t: None if t.latest is None else t.latest.failure is None),
        "1 when the last session or heartbeat finished, 0 when it failed. Absent before the first "
        "session ends.",
    ),
    counter(
        "vllm_probe_sessions_total",
        one(lambda t: t.sessions),
        "Sessions that ended, finished or failed.",
    ),
    counter(
        "vllm_probe_session_failures_total",
        by("reason", lambda t: t.failures),
        "Sessions that failed, by the reason of the turn that failed.",
    ),
    gauge(
        "vllm_probe_consecutive_failures",
        one(lambda t: None if t.latest is None else t.failures_in_a_row),
        "Sessions and heartbeats that failed since the last one that finished, of all scenarios.",
    ),
    gauge(
        "vllm_probe_interval_seconds",
        one(lambda t: t.interval_seconds),
        "Time from one session to the next, as configured. The limits of the probe and a busy "
        "engine make it longer.",
    ),
    gauge(
        "vllm_probe_heartbeat_interval_seconds",
        one(lambda t: t.heartbeat_seconds),
        "Time from a session or heartbeat to the next heartbeat, as configured. Absent when none "
        "are sent.",
    ),
    gauge(
        "vllm_probe_last_success_timestamp_seconds",
        one(lambda t: t.last_success_time),
        "Unix time at which the last finished session ended.",
    ),
    gauge(
        "vllm_probe_session_due_timestamp_seconds",
        one(lambda t: t.due.get(Due.SESSION)),
        "Unix time at which the next session is due, by the interval and the limits of the probe. "
        "A time that has passed: a busy engine holds it back, or it is late.",
    ),
    counter(
        "vllm_probe_heartbeats_total",
        one(lambda t: t.heartbeats if t.heartbeat_seconds else None),
        "Heartbeats that ended, finished or failed: a short prompt and its continuation, where no "
        "session came for a while.",
    ),
    counter(
        "vllm_probe_heartbeat_failures_total",
        one(lambda t: t.heartbeat_failures if t.heartbeat_seconds else None),
        "Heartbeats that failed. The log and the page show the reason.",
    ),
    gauge(
        "vllm_probe_heartbeat_last_success_timestamp_seconds",
        one(lambda t: t.last_heartbeat_time),
        "Unix time at which the last heartbeat that finished ended. Absent before the first one.",
    ),
    gauge(
        "vllm_probe_heartbeat_due_timestamp_seconds",
        one(lambda t: t.due.get(Due.HEARTBEAT)),
        "Unix time at which the next heartbeat is due if no session comes first. Absent when none "
        "are sent.",
    ),
    gauge(
        "vllm_probe_scenario_up",
        by("scenario", lambda t: {k: each.failure is None for k, each in t.scenarios.items()}),
        "1 when the last session of this scenario finished, 0 when it failed; `heartbeat` is that "
        "of heartbeats. When a session shows that the target itself fails, the other scenarios are "
        "absent.",
    ),
    gauge(
        "vllm_probe_session_duration_seconds",
        last_session(lambda s: s.duration_seconds),
        "Duration of the last session. Absent when it failed.",
    ),
    gauge(
        "vllm_probe_notice",
        Reader(("notice",), _notices),
        "1 for each notice of the last session of any scenario. A notice says, for example, why a "
        "value is absent.",
    ),
    gauge(
        "vllm_probe_turn_hit_ratio",
        each_turn(lambda turn: turn.hit_ratio),
        "Cached / prompt tokens of this turn of the last session of this scenario. Absent when "
        "the server does not report cached tokens.",
    ),
    gauge(
        "vllm_probe_turn_ideal_hit_ratio",
        each_turn(lambda turn: turn.ideal_hit_ratio),
        "The highest hit ratio that exact-prefix caching can give this turn.",
    ),
    gauge(
        "vllm_probe_turn_attainable_hit_ratio",
        each_turn(lambda turn: turn.attainable_hit_ratio),
        "The highest hit ratio that the reuse rule of this engine lets it give this turn. Absent "
        "while the rule is unknown.",
    ),
    gauge(
        "vllm_probe_turn_efficiency_ratio",
        each_turn(lambda turn: turn.efficiency_ratio),
        "Cached / attainable tokens of this turn. Absent when the attainable tokens are 0 or "
        "unknown.",
    ),
    gauge(
        "vllm_probe_turn_tokens_saved",
        each_turn(lambda turn: turn.tokens_saved),
        "Prompt tokens of this turn that came from the cache.",
    ),
    gauge(
        "vllm_probe_turn_prompt_tokens",
        each_turn(lambda turn: turn.prompt_tokens),
        "Prompt tokens of this turn, as the server counted them.",
    ),
    gauge(
        "vllm_probe_turn_completion_tokens",
        each_turn(lambda turn: turn.completion_tokens),
        "Completion tokens of this turn, as the server counted them.",
    ),
    gauge(
        "vllm_probe_turn_ttft_seconds",
        each_turn(lambda turn: turn.ttft_seconds),
        "Time to first token of this turn: from the sent request to the first generated text, as "
        "the client sees it.",
    ),
    gauge(
        "vllm_probe_turn_latency_seconds",
        each_turn(lambda turn: turn.latency_seconds),
        "Time from the sent request of this turn to the end of its answer, as the client sees it.",
    ),
    counter(
        "vllm_probe_prompt_tokens_total",
        one(lambda t: t.sums.prompt_tokens),
        "Prompt tokens of all turns whose cached tokens are known, in failed sessions too. Hit "
        "ratio over any time: rate of cached tokens / rate of prompt tokens. All tokens of the "
        "probe are in vllm_probe_consumed_tokens_total.",
    ),
    counter(
        "vllm_probe_cached_tokens_total",
        one(lambda t: t.sums.cached_tokens),
        "Cached tokens of the same turns as vllm_probe_prompt_tokens_total. Absent until a server "
        "reports cached tokens.",
    ),
    counter(
        "vllm_probe_external_cached_tokens_total",
        one(lambda t: t.sums.external_cached_tokens),
        "Tokens of vllm_probe_cached_tokens_total that came from a tier below the engine's own "
        "cache, such as a KV store, of the turns for which that is known: the engine ran nothing "
        "else. Absent without such a tier.",
    ),
    counter(
        "vllm_probe_ideal_cached_tokens_total",
        one(lambda t: t.sums.ideal_cached_tokens),
        "The most tokens that exact-prefix caching can serve, of the same turns as "
        "vllm_probe_attainable_cached_tokens_total. Ideal - attainable = lost tokens of the causes "
        "of the reuse rule.",
    ),
    counter(
        "vllm_probe_attainable_cached_tokens_total",
        one(lambda t: t.sums.attainable_cached_tokens),
        "The most tokens that the reuse rule of this engine lets it serve, of the turns for which "
        "that and the cached tokens are known. Attainable - cached = lost tokens of all other "
        "causes. Efficiency over any time: (rate of ideal - rate of lost tokens, summed over "
        "causes) / rate of attainable tokens. A turn whose loss is known although the rule is not "
        "counts with its ideal, unless other turns of its session hit an unknown share.",
    ),
    counter(
        "vllm_probe_lost_tokens_total",
        by("cause", lambda t: t.sums.lost_tokens | t.sums.rule_lost_tokens),
        "Ideal minus cached tokens, by cause, of the same turns as "
        "vllm_probe_attainable_cached_tokens_total. The reuse rule of the engine gives up those of "
        f"{_RULE_CAUSES}: they are no fault. The others were attainable.",
    ),
    counter(
        "vllm_probe_model_attainable_cached_tokens_total",
        _by_model(lambda sums: sums.attainable_cached_tokens),
        "vllm_probe_attainable_cached_tokens_total of the sessions with this model or LoRA "
        "adapter. Only where sessions were played with several.",
    ),
    counter(
        "vllm_probe_model_cached_tokens_total",
        _by_model(lambda sums: sums.judged_cached_tokens),
        "Cached tokens of the same turns as vllm_probe_model_attainable_cached_tokens_total. "
        "Efficiency with a model over any time: rate of cached / rate of attainable tokens.",
    ),
    counter(
        "vllm_probe_rank_attainable_cached_tokens_total",
        _by_rank(lambda sums: sums.attainable_cached_tokens),
        "vllm_probe_attainable_cached_tokens_total of the sessions pinned to this data-parallel "
        'rank. Only with data_parallel_ranks = "pinned", on an engine with several ranks.',
    ),
    counter(
        "vllm_probe_rank_cached_tokens_total",
        _by_rank(lambda sums: sums.judged_cached_tokens),
        "Cached tokens of the same turns as vllm_probe_rank_attainable_cached_tokens_total. "
        "Efficiency of a rank over any time: rate of cached / rate of attainable tokens.",
    ),
    counter(
        "vllm_probe_routed_turns_total",
        by("replica", lambda t: t.sums.routed_turns),
        "Turns after the first that ran on the `same` replica as the turn before them, or on an "
        "`other` one, by the replicas' own counters. Only with metrics_urls; a turn whose replica "
        "is not certain does not count.",
    ),
    gauge(
        "vllm_probe_prefix_stable",
        by_scenario(lambda s: None if s.prefix is None else s.prefix.stable),
        "1 when every prompt of the last session of this scenario began with the prompt and answer "
        "of the turn before, 0 when the chat template rewrote history. Absent when token ids are "
        "unknown.",
    ),
    gauge(
        "vllm_probe_cache_wedged",
        one(lambda t: t.wedged),
        "1 when the same prompt, sent twice, did not hit, although the cache had room and this "
        "engine process had hits before. 0 when a prompt hit. From the last session or isolation "
        "test that shows one or the other. Absent before that, after a restart of the engine, and "
        "while the target fails.",
    ),
    counter(
        "vllm_probe_isolation_tests_total",
        one(lambda t: t.isolation_tests),
        "Isolation tests with a result: whether the cache keeps two salts apart.",
    ),
    counter(
        "vllm_probe_isolation_leaks_total",
        one(lambda t: t.isolation_leaks),
        "Isolation tests in which a new salt got tokens from the cache.",
    ),
    counter(
        "vllm_probe_completion_tokens_total",
        one(lambda t: t.sums.completion_tokens),
        "Completion tokens of all turns, in failed sessions too.",
    ),
    counter(
        "vllm_probe_consumed_tokens_total",
        one(lambda t: t.sums.consumed_tokens),
        "Prompt and completion tokens of all requests of the probe: the turns and all others.",
    ),
    histogram(
        "vllm_probe_ttft_seconds",
        by("cache", lambda t: t.ttft),
        "Time to first token of all turns. cold: no cached token; warm: at least one; unknown: the "
        "server does not report cached tokens.",
    ),
    histogram(
        "vllm_probe_inter_token_seconds",
        one(lambda t: t.inter_token),
        "Time from one chunk of generated text to the next, of all turns.",
    ),
)
