"""What is right to say of each kind of server that the simulator can be."""

from __future__ import annotations

from dataclasses import dataclass, replace

OPENING = frozenset({"simulated", "opening_short", "scenario_shortened"})
"""Notices about the simulator and the scenario: they say nothing of the server."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The parts of a reuse rule, by their names in JSON."""

    unit_tokens: int = 16
    dropped_blocks: int | None = 0
    answers_kept: bool | None = True
    lookahead_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Right:
    """Of `check`: the tests that fail and those that are unknown. Of `probe`: why it fails, what
    is known of cached tokens, and the causes of losses. `never` stands nowhere in any words.

    `cached`: "ideal" on each turn; "attainable" on each turn, by the rule; "less" on some, all
    known; "unknown" on all; "hidden" after the first; "some" are not known.
    `rule` is the reuse rule that a session finds, `gives_up` the causes of what it gives up.
    `alarms` may fire, and no other. `state` is what the page calls the target.
    """

    fails: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    failure: str | None = None
    cached: str = "ideal"
    causes: frozenset[str] = frozenset()
    rule: Rule | None = Rule()
    gives_up: frozenset[str] = frozenset()
    notices: frozenset[str] = frozenset()
    never: tuple[str, ...] = ()
    alarms: frozenset[str] = frozenset()
    state: str = "up"


def _set(*names: str) -> frozenset[str]:
    return frozenset(names)


_EVICTED = ("evicted", "--gpu-memory-utilization")
_NOTHING_KNOWN = _set(
    "awake",
    *("one_engine", "usage_details", "token_ids", "cold_start", "second_turn", "prefix_stable"),
    *("isolation", "wedge", "reuse_rule"),
)
_RESTING = Right(unknown=_NOTHING_KNOWN, rule=None)
_EAGLE = Right(
    cached="attainable",
    rule=Rule(dropped_blocks=1),
    gives_up=_set("speculative_decoding"),
    never=_EVICTED,
)
_SLIDING = Right(
    cached="attainable",
    rule=Rule(answers_kept=False),
    gives_up=_set("answer_not_kept"),
    never=_EVICTED,
)
_UNIT = _set("match_unit_differs")
_LARGER_UNIT = Right(cached="attainable", gives_up=_set("unit"), notices=_UNIT, never=_EVICTED)
_SALTS_IGNORED = Right(
    state="not_isolated",
    fails=_set("isolation"),
    alarms=_set("VllmCacheIsolationLeak", "VllmSaltTestLeaked"),
)
_RECOVERED = Right(notices=_set("token_ids_recovered"))
_TRANSFER = Right(
    cached="unknown",
    state="cache_unknown",
    unknown=_set("usage_details", "cold_start", "second_turn", "isolation", "wedge"),
    notices=_set("transfer"),
    never=("salt_ignored", "ignores cache_salt", "leak"),
)
_TOKENS_UNKNOWN = Right(
    cached="unknown",
    state="cache_unknown",
    unknown=_set("cold_start", "second_turn", "isolation", "wedge"),
    fails=_set("usage_details"),
    notices=_set("usage_unusable"),
    never=("KeyError", "Check that the URL"),
)
_MIXED = Right(
    fails=_set("one_engine", "second_turn"),
    state="several_engines",
    cached="less",
    causes=_set("mixed"),
    notices=_set("mixed"),
    never=(
        *_EVICTED,
        *("Restart vLLM", "Find out what empties the cache", "serves a prompt only after"),
    ),
    alarms=_set("VllmCacheEfficiencyLow", "VllmProbeHitRatioLow"),
)

_ROUTED = replace(
    _MIXED,
    fails=_set("one_engine"),
    unknown=_set(
        *("version", "flags", "prefix_caching", "match_unit", "second_turn", "isolation", "wedge"),
        "reuse_rule",
    ),
    notices=_set("mixed", "match_unit_unknown"),
    rule=None,
)

_CLOCK = Right(
    state="prefix_unstable",
    fails=_set("second_turn", "prefix_stable"),
    unknown=_set("isolation", "wedge"),
    cached="less",
    notices=_set("prefix_unstable"),
    never=("Restart vLLM",),
    alarms=_set("VllmPrefixUnstable", "VllmProbeHitRatioLow"),
)

RIGHT: dict[str, Right] = {
    "vllm-0.22.1": Right(never=("--enable-prompt-tokens-details",)),
    "vllm-0.17.1": Right(never=("--enable-prompt-tokens-details",)),
    "vllm-0.10.2": Right(never=("--enable-prompt-tokens-details",)),
    "vllm-0.9.2": _RECOVERED,
    "vllm-0.9.2-v0": Right(
        notices=_set("token_ids_recovered", "salt_refused"),
        unknown=_set("cold_start", "isolation"),
    ),
    "vllm-0.8.5": Right(
        state="cache_unknown",
        fails=_set("usage_details"),
        unknown=_set("cold_start", "second_turn", "isolation", "wedge", "reuse_rule"),
        rule=None,
        cached="unknown",
        notices=_set("usage_details_missing", "token_ids_recovered", "salt_ignored"),
        alarms=_set("VllmUsageDetailsMissing", "VllmCacheIsolationLeak"),
    ),
    "vllm-0.8.5-v0": Right(
        state="not_isolated",
        fails=_set("isolation"),
        unknown=_set("cold_start"),
        notices=_set("token_ids_recovered", "salt_ignored"),
        alarms=_set("VllmCacheIsolationLeak", "VllmSaltTestLeaked"),
    ),
    "plain": Right(),
    "mla": Right(rule=Rule(128)),
    "gemma3-dense": Right(),
    "draft": Right(rule=Rule(lookahead_tokens=4)),  # so it could be with these counters
    "api2": Right(),
    "bos": Right(),
    "reasoning": Right(),
    "eagle": _EAGLE,
    "eagle-2048": replace(_EAGLE, rule=Rule(2048, dropped_blocks=1)),
    "eagle-hybrid": replace(
        _EAGLE,
        rule=Rule(528, dropped_blocks=1),
        gives_up=_set("speculative_decoding", "unit"),
        notices=_UNIT,
    ),
    "mtp-0.33": replace(_EAGLE, rule=Rule(lookahead_tokens=4)),
    "ngram": replace(_EAGLE, rule=Rule(lookahead_tokens=6)),
    "sliding-window": _SLIDING,
    "sliding-eagle": replace(
        _SLIDING,
        rule=Rule(dropped_blocks=1, answers_kept=False),
        gives_up=_set("answer_not_kept", "speculative_decoding"),
    ),
    "gemma3": _SLIDING,
    "gemma4": replace(
        _SLIDING,
        rule=Rule(64, answers_kept=False),
        gives_up=_set("answer_not_kept", "unit"),
        notices=_UNIT,
    ),
    "qwen3-next": replace(_SLIDING, rule=Rule(256, answers_kept=False)),
    "qwen3-next-32": replace(_SLIDING, rule=Rule(32, answers_kept=False)),
    "hybrid-528": replace(_LARGER_UNIT, rule=Rule(528)),
    "label-4": replace(_LARGER_UNIT, rule=Rule(256)),
    "late-hits": Right(
        unknown=_set("one_engine", "second_turn", "reuse_rule", "isolation", "wedge"),
        cached="less",
        rule=None,
        notices=_set("reuse_rule_unknown"),
        never=(*_EVICTED, "had been emptied", "Restart vLLM.", "efficiency 100"),
    ),
    "external": _SALTS_IGNORED,
    "external-chunks": _SALTS_IGNORED,
    "dp2": Right(
        fails=_set("second_turn"),
        unknown=_set("isolation", "wedge"),
        cached="less",
        causes=_set("other_rank"),
        never=(*_EVICTED, "Restart vLLM", "serves a prompt only after"),
        alarms=_set("VllmCacheEfficiencyLow", "VllmProbeHitRatioLow"),
    ),
    "pd-decode": _TRANSFER,
    "pd-decode-all": _TRANSFER,
    "no-usage-details": Right(
        state="cache_unknown",
        fails=_set("usage_details"),
        unknown=_set("cold_start", "second_turn", "isolation", "wedge"),
        cached="unknown",
        notices=_set("usage_details_missing"),
        alarms=_set("VllmUsageDetailsMissing"),
    ),
    "omits-empty": Right(never=("--enable-prompt-tokens-details",)),
    "rewrites-cached": Right(
        state="hits_hidden",
        fails=_set("usage_details", "second_turn"),
        unknown=_set("isolation", "wedge"),
        cached="hidden",
        causes=_set("unreported"),
        never=("Restart vLLM", "wedged"),
    ),
    "no-prompt-tokens": _TOKENS_UNKNOWN,
    "empty-usage": _TOKENS_UNKNOWN,
    "odd-usage-once": Right(
        unknown=_set("isolation", "wedge"),  # what is asked first is asked for these
        cached="some",
        notices=_set("usage_unusable"),
        never=("Check that the URL",),
    ),
    "swallows-ids": Right(
        cached="some",
        unknown=_set("token_ids", "prefix_stable"),
        notices=_set("token_ids_missing"),
        never=_EVICTED,
    ),
    "strict-gateway": Right(
        unknown=_set("token_ids", "cold_start", "prefix_stable", "isolation"),
        cached="some",
        notices=_set("token_ids_recovered", "salt_refused"),
    ),
    "no-stream-options": replace(_TOKENS_UNKNOWN, notices=_set("usage_missing")),
    "no-system-role": Right(notices=_set("system_role_refused")),
    "clock-in-template": _CLOCK,
    "lora": Right(),
    "bare-model-card": Right(),
    "clock": _CLOCK,
    "no-template": Right(
        fails=_set("second_turn"),
        unknown=_NOTHING_KNOWN - {"second_turn", "awake"},
        failure="bad_request",
        rule=None,
        alarms=_set("VllmProbeFailing"),
    ),
    "asleep": replace(_RESTING, failure="asleep", never=("hangs",)),
    "paused": replace(_RESTING, failure="paused", never=("rate limit",)),
    "paused-stream": replace(_RESTING, failure="paused", never=("may have died",)),
    "paused-waits": replace(_RESTING, failure="paused", never=("hangs",)),
    "scaling": replace(
        _RESTING,
        unknown=_NOTHING_KNOWN
        | _set("model", "version", "metrics", "flags", "prefix_caching", "match_unit"),
        failure="scaling",
        never=("rate limit",),
    ),
    "frozen-queue": Right(),
    "hung-queue": Right(
        fails=_set("second_turn"),
        unknown=_NOTHING_KNOWN - {"second_turn"},
        failure="first_token_timeout",
        rule=None,
        alarms=_set("VllmProbeFailing"),
    ),
    "router": _ROUTED,
    "old-router": _ROUTED,
    "merged-pages": replace(
        _MIXED,
        unknown=_set("version", "reuse_rule", "isolation", "wedge"),
        rule=None,
    ),
    "shuffled-replicas": replace(_MIXED, unknown=_set("isolation", "wedge")),
    "shuffling-gateway": replace(
        _ROUTED,
        fails=_set("metrics"),
        state="up",
        unknown=_ROUTED.unknown | _set("one_engine"),
        notices=_set("match_unit_unknown"),
        alarms=_MIXED.alarms | _set("VllmMetricsUnreadable"),
    ),
    "recounted-lookups": Right(),
}
