"""Real kinds of servers, as combinations of behaviours: `simulate --like NAME`.

`python -m exporter.simulator.engine_kinds.table` writes the table of docs/simulator.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from exporter.errors import ConfigError
from exporter.simulator.engine_kinds.settings import SimulatorSettings
from exporter.simulator.engine_kinds.starts import FAILING_STARTS, FailingStart
from exporter.simulator.faults import behaviours as be
from exporter.simulator.faults import faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.simulator.faults.fault_fields import Fault


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of server: real examples, what the exporter reports, and its behaviours."""

    name: str
    server: str
    said: str
    behaviours: tuple[Fault, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def _release(version: str, said: str, server: str, *, v0: bool = False) -> Profile:
    name = f"vllm-{version}-v0" if v0 else f"vllm-{version}"
    return Profile(name, server, said, settings={"version": version, "v0": v0})


_ROUTED: Mapping[str, Any] = {"engine_ranks": 2}
_ALL = (
    # Releases of vLLM
    _release(
        "0.22.1",
        "A missing field means 0 once this server has sent it. Everything else is normal.",
        "vLLM 0.9.0 to 0.23.0: usage has no details if 0 tokens were cached.",
    ),
    _release("0.17.1", "The same.", "The same, with the counters and errors of 0.17."),
    _release(
        "0.10.2",
        "The same. The saved tokens come from the prefix counters.",
        "The same, with both the old and the new names of the cache's counters.",
    ),
    _release(
        "0.9.2",
        "It calls `/tokenize` without tools, so the ideal is known.",
        "The same; no token ids; `/tokenize` counts tools that the chat leaves out.",
    ),
    _release(
        "0.9.2",
        "It sends no salt while this process lives; words at the start of each prompt keep "
        "sessions apart. Notice `salt_refused`.",
        "The V0 engine of 0.9 and 0.10: 400 for every `cache_salt`, no cache counters.",
        v0=True,
    ),
    _release(
        "0.8.5",
        "Queried and hit tokens are blocks times the block size. Hit ratios per turn are unknown; "
        "notice `usage_details_missing` once the counters show hits.",
        "0.8.5 with V1: usage never has cached tokens, and the counters count blocks.",
    ),
    _release(
        "0.8.5",
        "It finds that salts are ignored; words at the start of each prompt keep sessions apart.",
        "0.8.5 with V0: salts are ignored, no cache counters.",
        v0=True,
    ),
    # What the cache serves
    Profile(
        "eagle",
        "EAGLE or MTP up to 0.32: every hit lacks the last matched unit.",
        "The loss is `unexplained`, by the engine's own rule, with the evidence for the rule. "
        "`second_turn` is unknown, and no alert fires. Never `evicted`.",
        (be.DropLastUnit(), be.Drafts()),
    ),
    Profile(
        "eagle-hybrid",
        "MTP on a hybrid model: each hit lacks a unit of 528 tokens, and no label shows it.",
        "It learns the unit from the hits (`match_unit_differs`); then as `eagle`.",
        (be.DropLastUnit(), be.Drafts(), be.HitUnit(528)),
    ),
    Profile(
        "sliding-window",
        "Sliding windows since 0.28: the blocks of answers are never kept.",
        "As `eagle`, with the evidence for a window.",
        (be.ForgetAnswers(),),
    ),
    Profile(
        "hybrid-528",
        "A hybrid model: the label shows blocks of 16, each hit is a multiple of 528.",
        "It learns the unit from the hits (`match_unit_differs`); until then the ideal is unknown. "
        "Never `evicted`.",
        (be.HitUnit(528),),
    ),
    Profile(
        "label-4",
        "The label shows blocks of 4, each hit is a multiple of 256.",
        "The same.",
        (be.BlockLabel(4), be.HitUnit(256)),
    ),
    Profile(
        "late-hits",
        "A hybrid model with MTP: an identical prompt hits only the third time.",
        "Neither `wedged` nor `reset`: hits always came late. `wedge` is unknown.",
        (be.LateHits(3),),
    ),
    Profile(
        "pd-decode",
        "A decode node of prefill/decode disaggregation: all prompt tokens except one count as "
        "cached, also with a new salt.",
        "A transfer, not a hit: hit ratio, isolation and savings are unknown. Notice `transfer`.",
        (be.Transfer(1),),
    ),
    Profile(
        "pd-decode-all",
        "The same with all prompt tokens.",
        "The same.",
        (be.Transfer(0),),
    ),
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
        "lora",
        "A LoRA adapter, MODEL-lora: its card has a parent and no length.",
        "It uses the parent's length.",
        (be.ModelCard("adapter"),),
    ),
    Profile(
        "bare-model-card",
        "A gateway whose model cards have no length; the context has 3,000 tokens.",
        "It learns the length from the refusal, which names it.",
        (be.ModelCard("bare"),),
        {"max_model_len": 3000},
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
