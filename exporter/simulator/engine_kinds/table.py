"""Real kinds of servers, as combinations of behaviours: `simulate --like NAME`.

`python -m exporter.simulator.engine_kinds.table` writes the table of docs/simulator.md.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from exporter.errors import ConfigError
from exporter.simulator.engine_kinds.caches import OTHER_CACHES, PLAIN_CACHES
from exporter.simulator.engine_kinds.profile import Profile
from exporter.simulator.engine_kinds.releases import RELEASES
from exporter.simulator.engine_kinds.settings import SimulatorSettings
from exporter.simulator.engine_kinds.starts import FAILING_STARTS, FailingStart
from exporter.simulator.faults import behaviours as be
from exporter.simulator.faults import faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_ROUTED: Mapping[str, Any] = {"engine_ranks": 2}
_ALL = (
    *RELEASES,
    *PLAIN_CACHES,
    *OTHER_CACHES,
    # What usage reports
    Profile(
        "no-usage-details",
        "vLLM without --enable-prompt-tokens-details.",
        "Notice `usage_details_missing`, with the flag that fixes it.",
        settings={"enable_prompt_tokens_details": False},
    ),
    Profile(
        "omits-empty",
        "A gateway that removes fields that are 0, null or empty.",
        "A missing field means 0 once this server has sent it.",
        (be.OmitEmpty(),),
    ),
    Profile(
        "rewrites-cached",
        "A gateway that always reports 0 cached tokens, while other clients use the engine.",
        "Cause `unreported`: the engine's counters show the hits. Never `wedged`.",
        (be.ZeroCached(), be.Company(40)),
    ),
    Profile(
        "no-prompt-tokens",
        "Usage without `prompt_tokens`.",
        "The time to first token is known, the tokens of these turns are not: `usage_unusable`.",
        (be.OddUsage("no_prompt_tokens"),),
    ),
    Profile(
        "empty-usage",
        "Empty usage.",
        "The same.",
        (be.OddUsage("empty"),),
    ),
    Profile(
        "odd-usage-once",
        "Usage that once reports more cached tokens than the prompt has.",
        "The tokens of that turn are unknown; the session continues.",
        (be.OddUsage("more_cached_than_sent", 1),),
    ),
    Profile(
        "swallows-ids",
        "A parser removes the start of each answer: fewer ids than completion tokens.",
        "An incomplete list of ids counts as unknown, and so does everything computed from it.",
        (be.SwallowedIds(2),),
    ),
    # What is refused
    Profile(
        "strict-gateway",
        "A gateway that refuses fields that OpenAI's API lacks, one at a time.",
        "It repeats the request without the field, and leaves the field out from then on. Words at "
        "the start of each prompt keep sessions apart.",
        (be.StrictFields("unknown_to_openai"),),
    ),
    Profile(
        "no-stream-options",
        "A gateway that refuses `stream_options` and sends no usage.",
        "It repeats the request without it. Token counts are unknown.",
        (be.StrictFields("stream_options"),),
    ),
    Profile(
        "no-system-role",
        "A chat template that refuses the system role.",
        "It puts the system prompt into the first user message: `system_role_refused`.",
        (be.NoSystemRole(),),
    ),
    Profile(
        "clock-in-template",
        "A chat template that puts the time, with microseconds, into the prompt.",
        "The prefix is unstable from the first message on. Never `wedged`: all prompts differ.",
        (be.ClockInTemplate(),),
    ),
    Profile(
        "clock",
        "The same with the time in seconds.",
        "The same, if a turn is sent in another second than the turn before it.",
        (be.ClockInTemplate("seconds"),),
    ),
    Profile(
        "no-template",
        "A base model without a chat template: 400 for every chat request.",
        "The session fails with the reason.",
        (be.NoTemplate(),),
    ),
    Profile(
        "lora",
        "A LoRA adapter, MODEL-lora: its card has a parent and no length.",
        "It uses the parent's length.",
        (be.ModelCard("adapter"),),
    ),
    Profile(
        "bare-model-card",
        "A gateway whose model cards have no length; the context has 2,000 tokens.",
        "It learns the length from the refusal, which names it.",
        (be.ModelCard("bare"),),
        {"max_model_len": 2000, "num_blocks": 32_768},
    ),
    # States
    Profile(
        "asleep",
        "vLLM after POST /sleep: requests wait, /health answers 200.",
        "Asleep: it plays no session, reports no fault and restarts nothing.",
        (be.Asleep(1),),
    ),
    Profile(
        "paused",
        "vLLM 0.33 after POST /pause: 503 for every request.",
        "Paused: no fault, no alert, no restart.",
        (be.Paused("refused"),),
        {"version": "0.33.0"},
    ),
    Profile(
        "paused-stream",
        "The same, as an error in the stream.",
        "The same.",
        (be.Paused("stream_error"),),
        {"version": "0.33.0"},
    ),
    Profile(
        "paused-waits",
        "vLLM up to 0.32 after POST /pause: requests wait, /health answers 200.",
        "The first session ends with the reason `paused`; then as `paused`.",
        (be.Paused("waits"),),
    ),
    Profile(
        "scaling",
        "vLLM while POST /scale_elastic_ep adds or removes ranks: 503 for every path.",
        "Being scaled: no fault, no alert, no restart.",
        (be.Scaling(),),
    ),
    Profile(
        "frozen-queue",
        "The gauge of waiting requests stays at 15 after aborts, although none waits.",
        "The probe waits a minute. No counter grows, so it then plays a session.",
        (be.FrozenQueue(15),),
    ),
    Profile(
        "hung-queue",
        "A hung engine with 15 requests in its queue.",
        "The same, and the session fails: `first_token_timeout`.",
        (be.FrozenQueue(15), faults.Hang()),
    ),
    # Several engines, and servers in front of them
    Profile(
        "router",
        "A router in front of two engines: gauges with a label `server`, 0 for metric names that "
        "it does not know, and its own /version.",
        "Several engines or a router (`mixed`): it does not use the router's counters. "
        "`one_engine` fails, `second_turn` is unknown.",
        (be.PageOf("router"), be.Spread("in_turn")),
        _ROUTED,
    ),
    Profile(
        "old-router",
        "The same with engines whose metric names it knows: its sums fall when an engine leaves "
        "(the fault `pod_gone`).",
        "The same; totals do not jump when an engine leaves.",
        (be.PageOf("old_router"), be.Spread("in_turn")),
        _ROUTED,
    ),
    Profile(
        "merged-pages",
        "A gateway that merges the pages of two engines, with a label `pod`.",
        "Several engines: it computes totals per series, then adds them.",
        (be.PageOf("merged"), be.Spread("in_turn")),
        _ROUTED,
    ),
    Profile(
        "shuffled-replicas",
        "A gateway that sends requests to three engines at random, and shows the page of one.",
        "`one_engine` and `second_turn` fail; losses are `mixed`.",
        (be.PageOf("first"), be.Spread("shuffled")),
        {"engine_ranks": 3},
    ),
    Profile(
        "shuffling-gateway",
        "A gateway that sends requests to three engines at random, and forwards only /v1.",
        "`second_turn` is unknown: a later turn did not hit the turn before. "
        "Alert `VllmMetricsUnreadable`, not `VllmDown`.",
        (be.OnlyV1(), be.Spread("shuffled")),
        {"engine_ranks": 3},
    ),
    Profile(
        "recounted-lookups",
        "Waiting requests are looked up at each step, and each lookup counts (vLLM below 0.27).",
        "The users' tokens are the growth of `vllm:prompt_tokens` minus the exporter's own. "
        "Impossible totals are unknown.",
        (be.RecountedLookups(400),),
        {"version": "0.24.0"},
    ),
)
PROFILES: dict[str, Profile] = {profile.name: profile for profile in _ALL}


def settings_like(
    name: str, given: SimulatorSettings | None = None, also: Iterable[str] = ()
) -> SimulatorSettings:
    """The settings of a server of that kind. Values in `given` that are not defaults stay.

    Raises ConfigError for an unknown name; its text also lists the names in `also`.
    """
    profile = PROFILES.get(name)
    if profile is None:
        raise ConfigError(
            f"--like {name}: no such server; allowed: {', '.join([*PROFILES, *also])}"
        )
    default, given = SimulatorSettings(), given or SimulatorSettings()
    changed = {
        key: value
        for key, value in profile.settings.items()
        if getattr(given, key) == getattr(default, key)
    }
    return replace(given, **changed, behaviours=(*profile.behaviours, *given.behaviours))


def table() -> str:
    """All profiles as a Markdown table."""
    kinds: list[Profile | FailingStart] = [*PROFILES.values(), *FAILING_STARTS.values()]
    rows = [f"| `{one.name}` | {one.server} | {one.said} |" for one in kinds]
    head = ["| `--like` | the server | what the exporter reports |", "| --- | --- | --- |"]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
