"""PromQL that several panels share.

`$window` is the dashboard's averaging window: sessions are a minute or more apart, so a rate over
a few scrapes would mostly be empty. A ratio without traffic is absent, not 0 / 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.container.decide.records import LifecycleState
from exporter.model.reuse import RuleCause

if TYPE_CHECKING:
    from collections.abc import Mapping

TARGET: Final = 'target=~"$target"'
FULL_SESSIONS: Final = 'scenario!="heartbeat"'
"""Without the heartbeats between sessions, which are short and have two turns."""
SCENARIO: Final = 'scenario="$scenario"'
"""For a dashboard of one target: each scenario has its own turns."""


def increase(family: str, *labels: str, by: str = "target", over: str = "$window") -> str:
    """The growth of a counter over a window, summed by labels."""
    return f"sum by ({by}) (increase({family}{{{', '.join((TARGET, *labels))}}}[{over}]))"


def rate(family: str, *labels: str, by: str = "target", over: str = "$__rate_interval") -> str:
    return f"sum by ({by}) (rate({family}{{{', '.join((TARGET, *labels))}}}[{over}]))"


def gauge(family: str, *labels: str, by: str = "target") -> str:
    """A gauge by labels. The maximum only removes the labels of the scrape."""
    return f"max by ({by}) ({family}{{{', '.join((TARGET, *labels))}}})"


def ratio(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def or_word(expression: str, label: str, words: Mapping[str, str]) -> str:
    """`expression`, or the first of `words` whose expression is there, as the label's value.

    "Nothing found" is an answer, 0. "Nothing known" is none, NaN: without the exporter it is the
    word of all targets. A tile without a series would be blank.
    """
    others = (f'label_replace({of}, "{label}", "{word}", "", "")' for word, of in words.items())
    unknown = f'label_replace(vector(NaN), "{label}", "unknown", "", "")'
    all_targets = f'label_replace({unknown}, "target", "all targets", "", "")'
    return " or on (target) ".join((f"({expression})", *others)) + f" or on () {all_targets}"


def or_none(expression: str, label: str, known: str) -> str:
    """The parts of `expression` that are not 0, or one 0 named none while `known` is there.

    Reasons at 0 fill legends and look like diagnoses.
    """
    none = f'label_replace(0 * max({gauge(known)}), "{label}", "none", "", "")'
    return f"({expression} > 0) or on () {none}"


def while_up(up: str, expression: str) -> str:
    """A ratio over a window, but only while the last session or scrape succeeded.

    The window outlives an engine or an exporter that is gone.
    """
    return f"({expression}) and on (target) ({gauge(up)} == 1)"


def each_target(expression: str) -> str:
    """`expression`, and NaN for the targets without a value, so that they do not drop out."""
    return f"({expression}) or on (target) NaN * {gauge('vllm_engine_up')}"


def named(label: str, expressions: Mapping[str, str]) -> str:
    """Expressions in one query, each with its name as the value of a label. Any may be absent."""
    return " or ".join(
        f'label_replace({expression}, "{label}", "{name}", "", "")'
        for name, expression in expressions.items()
    )


def ttft_quantile(quantile: float, cache: str) -> str:
    buckets = rate(
        "vllm_probe_ttft_seconds_bucket", f'cache="{cache}"', by="target, le", over="$window"
    )
    return f"histogram_quantile({quantile}, {buckets})"


def ttft_mean(cache: str) -> str:
    labels = f'cache="{cache}"'
    return ratio(
        increase("vllm_probe_ttft_seconds_sum", labels),
        increase("vllm_probe_ttft_seconds_count", labels),
    )


def beyond(histogram: str, bound: str, *labels: str) -> str:
    """The share of observations above one of the histogram's bounds, over the window."""
    within = increase(f"{histogram}_bucket", *labels, f'le="{bound}"')
    return f"1 - {ratio(within, increase(f'{histogram}_count', *labels))}"


PROBE_HIT_RATIO: Final = ratio(
    increase("vllm_probe_cached_tokens_total"), increase("vllm_probe_prompt_tokens_total")
)
IDEAL_TOKENS: Final = increase("vllm_probe_ideal_cached_tokens_total")
ATTAINABLE_TOKENS: Final = increase("vllm_probe_attainable_cached_tokens_total")
"""What the engine's reuse rule lets it serve."""
PROBE_EFFICIENCY: Final = ratio(
    f"({IDEAL_TOKENS} - {increase('vllm_probe_lost_tokens_total')})", ATTAINABLE_TOKENS
)
"""Ideal minus lost tokens are the cached tokens of the turns whose attainable tokens are known."""
GIVEN_UP: Final = "1 - " + ratio(ATTAINABLE_TOKENS, IDEAL_TOKENS)
"""The share of the ideal that the reuse rule gives up."""
_USERS_LOCAL: Final = increase("vllm_engine_users_prefix_cache_hit_tokens_total")
_USERS_EXTERNAL: Final = increase("vllm_engine_users_external_hit_tokens_total")
USERS_HIT_RATIO: Final = ratio(
    f"({_USERS_LOCAL} + {_USERS_EXTERNAL} or {_USERS_LOCAL})",
    increase("vllm_engine_users_prefix_cache_queried_tokens_total"),
)
"""Without the exporter's own requests; over all cache tiers, where external hits are known."""
_RULE_CAUSES: Final = "|".join(RuleCause)
LOST: Final = f'cause!~"{_RULE_CAUSES}"'
"""The causes of losses. The others are parts of the reuse rule."""
GIVEN_UP_BY_RULE: Final = f'cause=~"{_RULE_CAUSES}"'
LOST_BY_CAUSE: Final = or_none(
    increase("vllm_probe_lost_tokens_total", LOST, by="target, cause"), "cause", "vllm_probe_up"
)
GIVEN_UP_BY_CAUSE: Final = or_none(
    increase("vllm_probe_lost_tokens_total", GIVEN_UP_BY_RULE, by="target, cause"),
    "cause",
    "vllm_probe_up",
)

LAST_SESSION: Final = f"max by (target) (target:vllm_probe_last_session_hit:ratio{{{TARGET}}})"
"""A recorded series, the same that alerts use. Turns 2 and later."""
_OF_SCENARIOS: Final = (
    f"max by (target, scenario) (target_scenario:vllm_probe_last_session_{part}:ratio{{{TARGET}}})"
    for part in ("hit", "attainable")
)
LAST_EFFICIENCY: Final = f"min by (target) ({ratio(*_OF_SCENARIOS)})"
"""Of the worst scenario's last session."""
_RECORDED: Final = (
    "target:vllm_probe_last_session_hit:ratio",
    "target:vllm_probe_ttft_turns:increase5m",  # of a target that has failed, too
)
RULES_LOADED: Final = f"count({' or '.join(f'{record}{{{TARGET}}}' for record in _RECORDED)})"
ALERTS_FIRING: Final = (
    f'count by (target) (ALERTS{{{TARGET}, alertstate="firing"}}) '
    f"or on (target) (0 * {gauge('vllm_engine_up')} and on () {RULES_LOADED})"
)
EXPORTER_UP: Final = 'min(up{job="vllm-cache-exporter"})'
WEDGED: Final = gauge("vllm_probe_cache_wedged")

DOCKER: Final = gauge("vllm_container_docker_up")
DOCKER_ANSWERS: Final = f"0 * ({DOCKER} == 1)"
DOCKER_SILENT: Final = f"NaN * ({DOCKER} == 0)"
_NO_CONTAINER: Final = f"({gauge('vllm_engine_up')} unless on (target) {DOCKER})"
NO_CONTAINER: Final = f"NaN * {_NO_CONTAINER}"


def or_no_container(expression: str) -> str:
    """`expression`; -1 for a target that the exporter knows and whose container it does not; NaN
    for one with a container and no value.
    """
    return each_target(f"({expression}) or on (target) 0 * {_NO_CONTAINER} - 1")


_WATCHED: Final = "vllm_container_docker_up"
_PROBED: Final = "vllm_probe_up"


def _growth(series: str, by: str, over: str, was_zero: str = "") -> str:
    """How much a counter grew since then.

    A series that did not exist then was 0 if `was_zero` existed. `increase` misses what grows
    between the last sample of a window and the first of the next, and estimates at its edges.
    """
    now, before = (f"sum by ({by}) ({series}{at})" for at in ("", f" offset {over}"))
    existed = f" and on (target) {was_zero}{{{TARGET}}} offset {over}" if was_zero else ""
    return f"{now} - ({before} or 0 * {now}{existed})"


def _grown(family: str, by: str, over: str = "$__interval", was_zero: str = "") -> str:
    """Where a counter grew."""
    return _growth(f"{family}{{{TARGET}}}", by, over, was_zero) + " > 0"


def buckets(family: str, *labels: str) -> str:
    """The whole numbers by which a histogram of the probe grew in each step of the graph."""
    series = f"{family}_bucket{{{', '.join((TARGET, *labels))}}}"
    growth = _growth(series, "target, le", "$__interval", _PROBED)
    return f"sum by (le) (clamp_min({growth}, 0))"


# The step of an annotation grows with the time range, so they look back by one step. The restarts
# of a container have a series for a reason from its first restart on, so it was 0 before, if the
# container was watched.
CONTAINER_RESTARTED: Final = _grown(
    "vllm_container_restarts_total", "target, reason", was_zero=_WATCHED
)
_WITH_CONTAINER: Final = " or ".join(
    f"({_grown('vllm_container_restarts_total', 'target', over)})"
    for over in ("15m", "$__interval")
)
ENGINE_RESTARTED: Final = (
    f"{_grown('vllm_engine_restarts_total', 'target', was_zero=_WATCHED)} "
    f"unless on (target) ({_WITH_CONTAINER})"
)
"""Not where the container restarted: that has a mark."""


def events(families: Mapping[str, str]) -> str:
    """How often each of a container's counters grew in a step of the graph, by a word for it."""
    counted = {
        word: _grown(family, "target", was_zero=_WATCHED) for word, family in families.items()
    }
    return or_none(f"({named('what', counted)})", "what", _WATCHED)


# 1 if at least one engine is a simulator, 0 if all that answer are real, -1 if none answers, absent
# without the exporter.
SIMULATED: Final = (
    f'max(vllm_engine_info{{{TARGET}, simulated="true"}}) '
    f'or 0 * max(vllm_engine_info{{{TARGET}, simulated="false"}}) '
    f"or 0 * max(vllm_engine_up{{{TARGET}}}) - 1"
)

STATE_CODES: Final = {state: code for code, state in enumerate(LifecycleState)}


def _state_code() -> str:
    terms = " or ".join(
        f'{code} * vllm_container_state{{{TARGET}, state="{state}"}}'
        for state, code in STATE_CODES.items()
    )
    return f"sum by (target) ({terms})"


# One number for the state, so that one row of a timeline shows one container.
CONTAINER_STATE: Final = _state_code()
