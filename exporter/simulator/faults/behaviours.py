"""What servers and gateways do by design: one small record each, activated like a fault.

table.py combines them into real kinds of servers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from exporter.simulator.faults.fault_fields import MANY, UNTIL_CLEARED, Fault, choice, whole

# What the cache serves


@dataclass(frozen=True, slots=True)
class HitUnit(Fault):
    """Hits are multiples of `tokens`, which is several blocks; the labels do not show it."""

    name: ClassVar[str] = "hit_unit"
    tokens: int = whole(528, 1, MANY)


@dataclass(frozen=True, slots=True)
class BlockLabel(Fault):
    """`cache_config_info` shows this block size instead of the true one, and this match unit."""

    name: ClassVar[str] = "block_label"
    tokens: int = whole(4, 1, MANY)
    match_unit: int | None = whole(None, 1, MANY, none="the label says None")


@dataclass(frozen=True, slots=True)
class DropLastUnit(Fault):
    """Each hit lacks its last unit, as with EAGLE and MTP."""

    name: ClassVar[str] = "drop_last_unit"


@dataclass(frozen=True, slots=True)
class ForgetAnswers(Fault):
    """Groups of layers that slide or are linear keep only what a repeat of the prompt needs.

    So the blocks of answers are never kept. `full_groups` beside them keep every block.
    """

    name: ClassVar[str] = "forget_answers"
    window: int | None = whole(256, 1, MANY, none="linear layers, which have one state")
    groups: int = whole(5, 1, 100)
    full_groups: int = whole(1, 0, 100)


@dataclass(frozen=True, slots=True)
class ForgetLastStep(Fault):
    """Up to `tokens` tokens before the last one of some answers are not kept, at random.

    So it is with drafts under the synchronous scheduler: the tokens of the last step have no KV.
    """

    name: ClassVar[str] = "forget_last_step"
    tokens: int = whole(5, 1, 100)


@dataclass(frozen=True, slots=True)
class LookAhead(Fault):
    """A block hits only if this many tokens after it are the same too, as with EAGLE since 0.33."""

    name: ClassVar[str] = "look_ahead"
    tokens: int = whole(1, 1, 100)


@dataclass(frozen=True, slots=True)
class ExternalStore(Fault):
    """A KV store that ignores salts and outlives the process; usage adds its tokens to the hit.

    It serves prefixes in chunks of `chunk` tokens; null: whole prompts only, as ExampleConnector.
    """

    name: ClassVar[str] = "external_store"
    chunk: int | None = whole(256, 1, MANY, none="whole prompts only")


@dataclass(frozen=True, slots=True)
class LateHits(Fault):
    """A prefix hits only at its `sightings`-th occurrence."""

    name: ClassVar[str] = "late_hits"
    sightings: int = whole(3, 2, 10)


@dataclass(frozen=True, slots=True)
class Transfer(Fault):
    """A node that gets its KV from another node: all prompt tokens except `computed` count as
    cached.
    """

    name: ClassVar[str] = "transfer"
    computed: int = whole(1, 0, 1)


# What usage reports


@dataclass(frozen=True, slots=True)
class ZeroCached(Fault):
    """Usage always reports 0 cached tokens; the counters are right."""

    name: ClassVar[str] = "zero_cached"


@dataclass(frozen=True, slots=True)
class OmitEmpty(Fault):
    """A gateway that removes every 0, null or empty field from answers."""

    name: ClassVar[str] = "omit_empty"


@dataclass(frozen=True, slots=True)
class OddUsage(Fault):
    """Usage without prompt_tokens, empty usage, or more cached tokens than the prompt has."""

    name: ClassVar[str] = "odd_usage"
    kind: Literal["no_prompt_tokens", "empty", "more_cached_than_sent"] = choice(
        "no_prompt_tokens", "no_prompt_tokens", "empty", "more_cached_than_sent"
    )
    count: int | None = whole(None, 1, MANY, none=UNTIL_CLEARED)


@dataclass(frozen=True, slots=True)
class SwallowedIds(Fault):
    """A parser removes the first tokens of each answer: they count, but no chunk has them."""

    name: ClassVar[str] = "swallowed_ids"
    tokens: int = whole(2, 1, 1000)


@dataclass(frozen=True, slots=True)
class AllReasoning(Fault):
    """The whole answer is reasoning, up to the length limit, without content."""

    name: ClassVar[str] = "all_reasoning"


# What is refused


@dataclass(frozen=True, slots=True)
class StrictFields(Fault):
    """Fields are refused with 400. The answer names the first one.

    `unknown_to_openai`: fields that OpenAI's API lacks, such as cache_salt and return_token_ids.
    """

    name: ClassVar[str] = "strict_fields"
    refused: Literal["unknown_to_openai", "return_token_ids", "stream_options", "cache_salt"] = (
        choice(
            "unknown_to_openai",
            "unknown_to_openai",
            "return_token_ids",
            "stream_options",
            "cache_salt",
        )
    )


@dataclass(frozen=True, slots=True)
class NoSystemRole(Fault):
    """The chat template refuses messages of the role "system"."""

    name: ClassVar[str] = "no_system_role"


@dataclass(frozen=True, slots=True)
class ClockInTemplate(Fault):
    """The chat template puts the time at the start of each prompt."""

    name: ClassVar[str] = "clock_in_template"
    unit: Literal["microseconds", "seconds"] = choice("microseconds", "microseconds", "seconds")


@dataclass(frozen=True, slots=True)
class TokenAtStart(Fault):
    """The chat template begins with a token of its own, such as `<s>`."""

    name: ClassVar[str] = "token_at_start"


@dataclass(frozen=True, slots=True)
class NoTemplate(Fault):
    """A base model without a chat template: chat requests get 400."""

    name: ClassVar[str] = "no_template"


# States


@dataclass(frozen=True, slots=True)
class Asleep(Fault):
    """As after POST /sleep: requests wait, /health answers 200, and the engine reports asleep."""

    name: ClassVar[str] = "asleep"
    level: int = whole(1, 1, 2)


@dataclass(frozen=True, slots=True)
class Paused(Fault):
    """As after POST /pause: requests get 503 or an error in the stream, or wait.

    vLLM 0.33 refuses them; up to 0.32 they wait.
    """

    name: ClassVar[str] = "paused"
    answer: Literal["refused", "stream_error", "waits"] = choice(
        "refused", "refused", "stream_error", "waits"
    )


@dataclass(frozen=True, slots=True)
class Scaling(Fault):
    """As while POST /scale_elastic_ep adds or removes ranks: HTTP 503 for every request."""

    name: ClassVar[str] = "scaling"


# What /metrics and the other pages show


@dataclass(frozen=True, slots=True)
class FrozenQueue(Fault):
    """The gauge of waiting requests shows this many more than there are."""

    name: ClassVar[str] = "frozen_queue"
    requests: int = whole(15, 1, MANY)


@dataclass(frozen=True, slots=True)
class RecountedLookups(Fault):
    """Each lookup counts this many times, as if the request had waited for as many steps."""

    name: ClassVar[str] = "recounted_lookups"
    times: int = whole(400, 2, MANY)


@dataclass(frozen=True, slots=True)
class Drafts(Fault):
    """/metrics has the counters of speculative decoding, with drafts of `tokens` tokens."""

    name: ClassVar[str] = "drafts"
    tokens: int = whole(3, 1, 16)


@dataclass(frozen=True, slots=True)
class NoStartTime(Fault):
    """/metrics lacks `process_start_time_seconds`, as with several API servers."""

    name: ClassVar[str] = "no_start_time"


@dataclass(frozen=True, slots=True)
class PageOf(Fault):
    """The /metrics page of several engines.

    `router`: the router's own, with a label `server`, and 0 for metrics that newer engines have
    renamed. `old_router`: the same with older engines, whose names it knows. `merged`: all engines
    on one page, with a label `pod`. `first`: only the first engine. `none`: no vLLM metrics.
    """

    name: ClassVar[str] = "page_of"
    whose: Literal["router", "old_router", "merged", "first", "none"] = choice(
        "router", "router", "old_router", "merged", "first", "none"
    )


@dataclass(frozen=True, slots=True)
class Spread(Fault):
    """Requests go to the engines at random or in turn, instead of to the least loaded."""

    name: ClassVar[str] = "spread"
    how: Literal["shuffled", "in_turn"] = choice("shuffled", "shuffled", "in_turn")


@dataclass(frozen=True, slots=True)
class PodGone(Fault):
    """The last engine is gone: it gets no requests, and its series leave /metrics. With `stay` they
    do not, as those of a rank that was scaled down.
    """

    name: ClassVar[str] = "pod_gone"
    series: Literal["leave", "stay"] = choice("leave", "leave", "stay")


@dataclass(frozen=True, slots=True)
class ModelCard(Fault):
    """`adapter`: also serves a LoRA adapter MODEL-lora, whose card has a parent and no length.
    `bare`: no card has a length.
    """

    name: ClassVar[str] = "model_card"
    kind: Literal["adapter", "bare"] = choice("adapter", "adapter", "bare")


@dataclass(frozen=True, slots=True)
class OnlyV1(Fault):
    """A gateway that forwards only /v1."""

    name: ClassVar[str] = "only_v1"


@dataclass(frozen=True, slots=True)
class Company(Fault):
    """With each request runs another client's request, with a prompt of this many tokens."""

    name: ClassVar[str] = "company"
    tokens: int = whole(40, 1, MANY)


ALL: tuple[type[Fault], ...] = (
    HitUnit, BlockLabel, DropLastUnit, ForgetAnswers, ForgetLastStep, LookAhead, ExternalStore,
    LateHits, Transfer, ZeroCached, OmitEmpty, OddUsage, SwallowedIds, AllReasoning, StrictFields,
    NoSystemRole, ClockInTemplate, TokenAtStart, NoTemplate, Asleep, Paused, Scaling, FrozenQueue,
    RecountedLookups, Drafts, NoStartTime, PageOf, Spread, PodGone, ModelCard, OnlyV1, Company,
)  # fmt: skip
