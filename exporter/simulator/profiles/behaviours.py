"""What servers and gateways do by design: one small record each, switched on like a fault.

profiles.py puts them together to servers as people run them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from exporter.simulator.profiles.fault_fields import MANY, UNTIL_CLEARED, Fault, choice, whole

# What the cache serves


@dataclass(frozen=True, slots=True)
class HitUnit(Fault):
    """Hits land on multiples of `tokens`, themselves some blocks; the labels do not say so."""

    name: ClassVar[str] = "hit_unit"
    tokens: int = whole(528, 1, MANY)


@dataclass(frozen=True, slots=True)
class BlockLabel(Fault):
    """`cache_config_info` says this block size, whatever the true one is."""

    name: ClassVar[str] = "block_label"
    tokens: int = whole(4, 1, MANY)


@dataclass(frozen=True, slots=True)
class DropLastUnit(Fault):
    """Each hit lacks its last unit, as with EAGLE and MTP."""

    name: ClassVar[str] = "drop_last_unit"


@dataclass(frozen=True, slots=True)
class ForgetAnswers(Fault):
    """What an answer filled is never kept, as with sliding windows."""

    name: ClassVar[str] = "forget_answers"


@dataclass(frozen=True, slots=True)
class LateHits(Fault):
    """A prefix hits only when it comes for the `sightings`-th time."""

    name: ClassVar[str] = "late_hits"
    sightings: int = whole(3, 2, 10)


@dataclass(frozen=True, slots=True)
class Transfer(Fault):
    """A node that gets its KV from another: all but `computed` prompt tokens count as cached."""

    name: ClassVar[str] = "transfer"
    computed: int = whole(1, 0, 1)


# What usage says


@dataclass(frozen=True, slots=True)
class ZeroCached(Fault):
    """Usage says 0 cached tokens, whatever the cache served; the counters say the truth."""

    name: ClassVar[str] = "zero_cached"


@dataclass(frozen=True, slots=True)
class OmitEmpty(Fault):
    """A gateway that leaves out of every answer what is 0, null or empty."""

    name: ClassVar[str] = "omit_empty"


@dataclass(frozen=True, slots=True)
class OddUsage(Fault):
    """Usage without prompt_tokens, with nothing in it, or with more cached than the prompt has."""

    name: ClassVar[str] = "odd_usage"
    kind: Literal["no_prompt_tokens", "empty", "more_cached_than_sent"] = choice(
        "no_prompt_tokens", "no_prompt_tokens", "empty", "more_cached_than_sent"
    )
    count: int | None = whole(None, 1, MANY, none=UNTIL_CLEARED)


@dataclass(frozen=True, slots=True)
class SwallowedIds(Fault):
    """An answer begins with tokens that a parser swallows: counted, and in no chunk."""

    name: ClassVar[str] = "swallowed_ids"
    tokens: int = whole(2, 1, 1000)


@dataclass(frozen=True, slots=True)
class AllReasoning(Fault):
    """The whole answer is reasoning, cut off at its length: none of it is content."""

    name: ClassVar[str] = "all_reasoning"


# What is refused


@dataclass(frozen=True, slots=True)
class StrictFields(Fault):
    """Fields are refused with 400, the first one by its name.

    `unknown_to_openai`: what OpenAI's API does not have, such as cache_salt and return_token_ids.
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
    """The chat template writes the time, with its microseconds, at the head of each prompt."""

    name: ClassVar[str] = "clock_in_template"


# States


@dataclass(frozen=True, slots=True)
class Asleep(Fault):
    """As after POST /sleep: requests wait, /health says 200, `engine_sleep_state` says asleep."""

    name: ClassVar[str] = "asleep"
    level: int = whole(1, 1, 2)


@dataclass(frozen=True, slots=True)
class Paused(Fault):
    """As after POST /pause: requests are refused with 503, in a stream's error, or wait.

    vLLM 0.33 refuses, up to 0.32 they wait.
    """

    name: ClassVar[str] = "paused"
    answer: Literal["refused", "stream_error", "waits"] = choice(
        "refused", "refused", "stream_error", "waits"
    )


# What /metrics and the other pages say


@dataclass(frozen=True, slots=True)
class FrozenQueue(Fault):
    """The gauge of waiting requests says so many more than wait."""

    name: ClassVar[str] = "frozen_queue"
    requests: int = whole(15, 1, MANY)


@dataclass(frozen=True, slots=True)
class RecountedLookups(Fault):
    """Each lookup counts so many times, as if the request had waited for so many steps."""

    name: ClassVar[str] = "recounted_lookups"
    times: int = whole(400, 2, MANY)


@dataclass(frozen=True, slots=True)
class Drafts(Fault):
    """/metrics has the counters of speculative decoding."""

    name: ClassVar[str] = "drafts"


@dataclass(frozen=True, slots=True)
class PageOf(Fault):
    """Whose /metrics is shown where several engines answer.

    `router`: the router's own, with a label `server`, and 0 for what it does not find on the pages
    of newer engines. `old_router`: the same before engines whose names it knows. `merged`: the
    engines' pages in one, told apart by a label `pod`. `first`: the first engine's alone. `none`:
    nothing of vLLM's.
    """

    name: ClassVar[str] = "page_of"
    whose: Literal["router", "old_router", "merged", "first", "none"] = choice(
        "router", "router", "old_router", "merged", "first", "none"
    )


@dataclass(frozen=True, slots=True)
class Spread(Fault):
    """Requests go to the engines at random, or in turn, and not to the least loaded."""

    name: ClassVar[str] = "spread"
    how: Literal["shuffled", "in_turn"] = choice("shuffled", "shuffled", "in_turn")


@dataclass(frozen=True, slots=True)
class PodGone(Fault):
    """The last engine has left: nothing goes to it, and its series are gone from /metrics."""

    name: ClassVar[str] = "pod_gone"


@dataclass(frozen=True, slots=True)
class ModelCard(Fault):
    """`adapter`: a LoRA adapter MODEL-lora is served too, whose card has a parent and no length.
    `bare`: no card says a length.
    """

    name: ClassVar[str] = "model_card"
    kind: Literal["adapter", "bare"] = choice("adapter", "adapter", "bare")


@dataclass(frozen=True, slots=True)
class OnlyV1(Fault):
    """A gateway that lets through /v1 alone."""

    name: ClassVar[str] = "only_v1"


@dataclass(frozen=True, slots=True)
class Company(Fault):
    """Beside each request runs one of somebody else, with a prompt of so many tokens."""

    name: ClassVar[str] = "company"
    tokens: int = whole(40, 1, MANY)


ALL: tuple[type[Fault], ...] = (
    HitUnit, BlockLabel, DropLastUnit, ForgetAnswers, LateHits, Transfer, ZeroCached, OmitEmpty,
    OddUsage, SwallowedIds, AllReasoning, StrictFields, NoSystemRole, ClockInTemplate, Asleep,
    Paused, FrozenQueue, RecountedLookups, Drafts, PageOf, Spread, PodGone, ModelCard, OnlyV1,
    Company,
)  # fmt: skip
