"""Servers as people really run them, put together of behaviours: `simulate --like NAME`.

`python -m exporter.simulator.profiles.table` writes the table of docs/simulator.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from exporter.errors import ConfigError
from exporter.simulator.profiles import behaviours as be
from exporter.simulator.profiles import faults
from exporter.simulator.profiles.settings import SimulatorSettings
from exporter.simulator.profiles.starts import FAILING_STARTS, FailingStart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.simulator.profiles.fault_fields import Fault


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of server: who behaves so, what the exporter says of it, and how it is made."""

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
        "A missing field is 0 once this server was seen to have it; all else as ever.",
        "vLLM 0.9.0 to 0.23.0: usage has no details where 0 tokens were cached.",
    ),
    _release("0.17.1", "The same.", "The same, with the counters and errors of 0.17."),
    _release(
        "0.10.2",
        "The same. Tokens saved are those of the prefix counters.",
        "The same, with the old names of the cache's counters beside the new ones.",
    ),
    _release(
        "0.9.2",
        "`/tokenize` is asked without tools, so the ideal is known.",
        "The same; no token ids; the chat leaves tools out that `/tokenize` counts.",
    ),
    _release(
        "0.9.2",
        "The salt is left out for as long as the process lives; words at the head of each prompt "
        "keep sessions apart. Notice `salt_refused`.",
        "The V0 engine of 0.9 and 0.10: 400 to any `cache_salt`, no counters of the cache.",
        v0=True,
    ),
    _release(
        "0.8.5",
        "Queried and hit tokens are the blocks times the block size. Hit ratios per turn are "
        "unknown: `usage_details_missing`, once the counters show hits.",
        "0.8.5 with V1: cached tokens are never told, and its counters count blocks.",
    ),
    _release(
        "0.8.5",
        "Salts are found to be ignored; words at the head of each prompt keep sessions apart.",
        "0.8.5 with V0: salts are ignored, no counters of the cache.",
        v0=True,
    ),
    # What the cache serves
    Profile(
        "eagle",
        "EAGLE or MTP up to 0.32: every hit lacks the last matched unit.",
        "Lost as `unexplained`, by the engine's own rule, with what speaks for it. `second_turn` "
        "is unknown, no alert fires; never `evicted`.",
        (be.DropLastUnit(), be.Drafts()),
    ),
    Profile(
        "eagle-hybrid",
        "MTP on a hybrid model: the unit that each hit lacks has 528 tokens, and no label says so.",
        "The unit is learned from the hits (`match_unit_differs`); then as `eagle`.",
        (be.DropLastUnit(), be.Drafts(), be.HitUnit(528)),
    ),
    Profile(
        "sliding-window",
        "Sliding windows since 0.28: what an answer filled is never kept.",
        "As `eagle`, with what speaks for a window.",
        (be.ForgetAnswers(),),
    ),
    Profile(
        "hybrid-528",
        "A hybrid model: the label says blocks of 16, each hit is a multiple of 528.",
        "The unit is learned from the hits (`match_unit_differs`); the ideal is unknown until "
        "then. Never `evicted`.",
        (be.HitUnit(528),),
    ),
    Profile(
        "label-4",
        "The label says blocks of 4, each hit is a multiple of 256.",
        "The same.",
        (be.BlockLabel(4), be.HitUnit(256)),
    ),
    Profile(
        "late-hits",
        "A hybrid model with MTP: an identical prompt hits only at its third sighting.",
        "Neither `wedged` nor `reset`: nothing stopped, it never hit at once. `wedge` is unknown.",
        (be.LateHits(3),),
    ),
    Profile(
        "pd-decode",
        "A decode node of prefill/decode disaggregation: all prompt tokens but one count as cached,"
        " under a fresh salt too.",
        "A transfer, not a hit: hit ratio, isolation and savings are unknown, with the notice"
        " `transfer`.",
        (be.Transfer(1),),
    ),
    Profile(
        "pd-decode-all",
        "The same with all of them.",
        "The same.",
        (be.Transfer(0),),
    ),
    # What usage says
    Profile(
        "no-usage-details",
        "vLLM without --enable-prompt-tokens-details.",
        "`usage_details_missing`, with the flag that mends it.",
        settings={"enable_prompt_tokens_details": False},
    ),
    Profile(
        "omits-empty",
        "A gateway that leaves out what is 0, null or empty.",
        "A missing field is 0 once this server was seen to have it.",
        (be.OmitEmpty(),),
    ),
    Profile(
        "rewrites-cached",
        "A gateway that writes 0 cached tokens, while others use the engine too.",
        "`unreported`: the engine's counters show the hits. Never `wedged`.",
        (be.ZeroCached(), be.Company(40)),
    ),
    Profile(
        "no-prompt-tokens",
        "Usage without `prompt_tokens`.",
        "Time to first token is known, the tokens of these turns are not: `usage_unusable`.",
        (be.OddUsage("no_prompt_tokens"),),
    ),
    Profile(
        "empty-usage",
        "Usage with nothing in it.",
        "The same.",
        (be.OddUsage("empty"),),
    ),
    Profile(
        "odd-usage-once",
        "Usage that once says more cached tokens than the prompt has.",
        "The tokens of that turn are unknown, the session goes on.",
        (be.OddUsage("more_cached_than_sent", 1),),
    ),
    Profile(
        "swallows-ids",
        "A parser swallows the head of each answer: fewer ids than completion tokens.",
        "A list of ids that is not whole is unknown, and what follows from it too.",
        (be.SwallowedIds(2),),
    ),
    # What is refused
    Profile(
        "strict-gateway",
        "A gateway that refuses what OpenAI's API does not have, one field at a time.",
        "Sent again without the field, which is left out from then on; sessions keep apart by "
        "words at the head of their prompts.",
        (be.StrictFields("unknown_to_openai"),),
    ),
    Profile(
        "no-stream-options",
        "A gateway that refuses `stream_options`, and sends no usage.",
        "Sent again without; token counts are unknown, time to first token is known.",
        (be.StrictFields("stream_options"),),
    ),
    Profile(
        "no-system-role",
        "A chat template that refuses the system role.",
        "Scenarios are played with the system prompt in the first user message: "
        "`system_role_refused`.",
        (be.NoSystemRole(),),
    ),
    Profile(
        "clock-in-template",
        "A chat template that writes the time with its microseconds.",
        "The prefix is not stable, at the first message. Never `wedged`: no two prompts are equal.",
        (be.ClockInTemplate(),),
    ),
    Profile(
        "lora",
        "A LoRA adapter, MODEL-lora: its card has a parent and no length.",
        "The length is the parent's.",
        (be.ModelCard("adapter"),),
    ),
    Profile(
        "bare-model-card",
        "A gateway whose model cards say no length; the context has 3,000 tokens.",
        "The length is learned from the refusal that names it.",
        (be.ModelCard("bare"),),
        {"max_model_len": 3000},
    ),
    # States
    Profile(
        "asleep",
        "vLLM after POST /sleep: requests wait, /health says 200.",
        "Asleep: no session is played, nothing is ill, nothing is restarted.",
        (be.Asleep(1),),
    ),
    Profile(
        "paused",
        "vLLM 0.33 after POST /pause: 503 to every request.",
        "Paused: no illness, no alert, nothing is restarted.",
        (be.Paused("refused"),),
        {"version": "0.33.0"},
    ),
    Profile(
        "paused-stream",
        "The same, told as an error within the stream.",
        "The same.",
        (be.Paused("stream_error"),),
        {"version": "0.33.0"},
    ),
    Profile(
        "frozen-queue",
        "The gauge of waiting requests stays at 15 after aborts, and nothing waits.",
        "It holds the probe back for a minute; since nothing moves, a session is played then.",
        (be.FrozenQueue(15),),
    ),
    Profile(
        "hung-queue",
        "A hung engine with 15 requests in its queue.",
        "The same, and that session fails: `first_token_timeout`.",
        (be.FrozenQueue(15), faults.Hang()),
    ),
    # Several engines, and what stands before them
    Profile(
        "router",
        "A router in front of two engines: gauges with a label `server`, 0 where it does not know "
        "an engine's names, a /version of its own.",
        "Several engines or a router (`mixed`): its counters are not taken for an engine's. "
        "`one_engine` fails, `second_turn` is unknown.",
        (be.PageOf("router"), be.Spread("in_turn")),
        _ROUTED,
    ),
    Profile(
        "old-router",
        "The same before engines whose names it knows: its sums fall when one leaves (the fault "
        "`pod_gone`).",
        "The same; totals do not jump when one leaves.",
        (be.PageOf("old_router"), be.Spread("in_turn")),
        _ROUTED,
    ),
    Profile(
        "merged-pages",
        "A gateway that shows the pages of two engines in one, with a label `pod`.",
        "Several engines: totals by series, then added.",
        (be.PageOf("merged"), be.Spread("in_turn")),
        _ROUTED,
    ),
    Profile(
        "shuffled-replicas",
        "A gateway that shuffles requests over three engines, and shows the page of one.",
        "`one_engine` and `second_turn` fail; losses are `mixed`.",
        (be.PageOf("first"), be.Spread("shuffled")),
        {"engine_ranks": 3},
    ),
    Profile(
        "shuffling-gateway",
        "A gateway that shuffles requests over three engines, and lets through /v1 alone.",
        "`second_turn` is unknown: a later turn hit nothing of the turn before. "
        "`VllmMetricsUnreadable`, and not `VllmDown`.",
        (be.OnlyV1(), be.Spread("shuffled")),
        {"engine_ranks": 3},
    ),
    Profile(
        "recounted-lookups",
        "Requests that wait are looked up at each step, and each lookup counts (vLLM below 0.27).",
        "Others used what `vllm:prompt_tokens` grew by beyond our own; totals that cannot be are"
        " unknown.",
        (be.RecountedLookups(400),),
        {"version": "0.24.0"},
    ),
)
PROFILES: dict[str, Profile] = {profile.name: profile for profile in _ALL}


def settings_like(
    name: str, given: SimulatorSettings | None = None, also: Iterable[str] = ()
) -> SimulatorSettings:
    """The settings of a server of that kind; what is `given` and is no default stays.

    Raises ConfigError for an unknown name; `also` are other names that are allowed in its place.
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
    head = ["| `--like` | the server | what the exporter says of it |", "| --- | --- | --- |"]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
