"""The records that flow through the program: frozen, in seconds, tokens and ratios from 0 to 1.

A value that is not known is None and is never replaced by a zero. Times named `*_at` are readings
of a monotonic clock, times named `*_time` are Unix times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class FailureReason(StrEnum):
    """Why a turn, and with it the session, did not finish: label `reason` of a counter."""

    CONNECTION_REFUSED = "connection_refused"
    CONNECT_FAILED = "connect_failed"  # name resolution, TLS, no route
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"  # noqa: S105 - a reason, not a secret
    STALLED = "stalled"  # too long between two tokens
    TURN_TIMEOUT = "turn_timeout"
    STREAM_CUT = "stream_cut"  # the connection ended before [DONE]
    STREAM_ERROR = "stream_error"  # an error object inside a stream that began with 200
    ABORTED = "aborted"  # finish_reason "abort": the engine is shutting down or dropped the request
    UNAUTHORIZED = "unauthorized"
    MODEL_NOT_FOUND = "model_not_found"
    NO_MODEL = "no_model"  # /v1/models lists none
    PROMPT_TOO_LONG = "prompt_too_long"
    BAD_REQUEST = "bad_request"
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"  # 429 or 503
    PAUSED = "paused"  # by somebody, or while it is scaled: no illness
    ASLEEP = "asleep"  # its /metrics says that it sleeps, so it was not asked
    PROTOCOL = "protocol"  # an answer that is not what an OpenAI server says
    NO_DESCRIPTORS = "no_descriptors"  # the exporter has no file descriptor left for a connection
    INTERNAL = "internal"  # a mistake of ours; the log has the trace

    @property
    def is_of_the_target(self) -> bool:
        """Whether it says something of the target as a whole: no other scenario gets through."""
        return self not in _OF_ONE_SCENARIO


_OF_ONE_SCENARIO = frozenset(
    {
        FailureReason.TURN_TIMEOUT,
        FailureReason.PROMPT_TOO_LONG,
        FailureReason.BAD_REQUEST,
        FailureReason.NO_DESCRIPTORS,
        FailureReason.INTERNAL,
    }
)


class LossCause(StrEnum):
    """What took the tokens that exact-prefix caching could have served. Exactly one per turn."""

    DISABLED = "disabled"
    MIXED = "mixed"  # several replicas answer at this URL, each with a cache of its own
    RESTART = "restart"
    UNREPORTED = "unreported"  # the engine counted the hit, its usage did not tell it
    WEDGED = "wedged"  # there is room, it hit before, and an identical prompt does not any more
    NEVER_HIT = "never_hit"  # there is room, and this process never hit an identical prompt
    EVICTED = "evicted"
    OTHER_RANK = "other_rank"
    RESET = "reset"  # the cache was emptied with room in it, as by /reset_prefix_cache
    UNEXPLAINED = "unexplained"


class Notice(StrEnum):
    """Something that a reader of a session's numbers must know; see notices.py for the words."""

    SIMULATED = "simulated"
    USAGE_DETAILS_MISSING = "usage_details_missing"
    USAGE_MISSING = "usage_missing"
    USAGE_UNUSABLE = "usage_unusable"
    PREFIX_CACHING_DISABLED = "prefix_caching_disabled"
    TOKEN_IDS_MISSING = "token_ids_missing"  # noqa: S105 - a notice, not a secret
    MATCH_UNIT_UNKNOWN = "match_unit_unknown"
    MATCH_UNIT_DIFFERS = "match_unit_differs"
    FIRST_TURN_NOT_COLD = "first_turn_not_cold"
    HIT_BEYOND_IDEAL = "hit_beyond_ideal"
    SCENARIO_SHORTENED = "scenario_shortened"
    OPENING_SHORT = "opening_short"
    PREFIX_UNSTABLE = "prefix_unstable"
    CACHE_WEDGED = "cache_wedged"
    SALT_IGNORED = "salt_ignored"
    SALT_REFUSED = "salt_refused"
    CACHED_FROM_COUNTERS = "cached_from_counters"
    CACHED_TOKENS_UNKNOWN = "cached_tokens_unknown"
    TOKEN_IDS_RECOVERED = "token_ids_recovered"  # noqa: S105 - a notice, not a secret
    BLOCK_TOO_LARGE = "block_too_large"
    TRANSFER = "transfer"
    SYSTEM_ROLE_REFUSED = "system_role_refused"
    MIXED = "mixed"


class CachedTokensSource(StrEnum):
    """How it is known how many prompt tokens were cached."""

    USAGE = "usage"
    COUNTERS = "counters"  # what the engine's own counters rose by while it ran nothing else
    NO_HITS = "no_hits"  # the engine's own counters of hits did not rise at all, so 0


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage object of an answer, in tokens. `cached_tokens` is None where it is not known;
    `source` says how it is known where it is. It is not where what the server says was
    `transferred` from another engine.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    source: CachedTokensSource = CachedTokensSource.USAGE
    transferred: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something did not finish: a label, and a sentence for a person."""

    reason: FailureReason
    detail: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One request and its streamed answer, as the client saw it. Times are monotonic seconds.

    `first_token_at` is the arrival of the first chunk with generated text (content, reasoning or
    a tool call), None where the answer had none. `inter_token` holds the seconds between one such
    chunk and the next. Token ids are there where the server gave them, `ids_recovered` where not
    with the answer itself. `usage_fault` says why a usage that came is not believed.
    """

    index: int  # 1…
    sent_at: float
    first_token_at: float | None
    finished_at: float
    usage: Usage | None
    finish_reason: str | None
    inter_token: tuple[float, ...] = ()
    prompt_token_ids: tuple[int, ...] | None = field(default=None, repr=False)
    completion_token_ids: tuple[int, ...] | None = field(default=None, repr=False)
    ids_recovered: bool = False
    usage_fault: str | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """Tokens that the cache could have served and did not."""

    tokens: int
    cause: LossCause
    evidence: str


class ControlOutcome(StrEnum):
    """What became of a cold control; only a cold one counts."""

    COLD = "cold"
    NOT_COLD = "not_cold"  # it hit the cache under a salt never used: the server ignores salts
    UNREPORTED = "unreported"  # the server does not say how many tokens were cached
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Control:
    """A turn's messages sent once more under a salt never used before, next to that turn.

    `ttft_seconds` is as in `TurnFacts`, None where it failed or the answer had no text.
    """

    outcome: ControlOutcome
    before_turn: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    ttft_seconds: float | None


class PauseReason(StrEnum):
    """What keeps the probe from starting: label `reason` of a gauge."""

    QUEUE = "queue"  # requests wait in the engine's queue
    USAGE = "usage"  # the engine's KV cache is nearly full of running requests
    BUDGET = "budget"  # what was spent is not worked off yet
    ASLEEP = "asleep"  # it sleeps or is paused, so a request would wait until somebody ends that


@dataclass(frozen=True, slots=True)
class TurnFacts:
    """What one turn says about the cache. Seconds, tokens, ratios 0…1; None is unknown.

    `ideal_cached_tokens` is the most that exact-prefix caching could have served;
    `efficiency_ratio` is cached / ideal, None where the ideal is 0.
    """

    index: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    hit_ratio: float | None
    tokens_saved: int | None
    ideal_cached_tokens: int | None
    ideal_hit_ratio: float | None
    efficiency_ratio: float | None
    ttft_seconds: float | None
    latency_seconds: float
    inter_token_seconds: tuple[float, ...] = ()
    loss: Loss | None = None
    control: Control | None = None
    cached_tokens_source: CachedTokensSource | None = None

    @property
    def consumed_tokens(self) -> int | None:
        """Prompt and completion tokens, the control's too, as far as they are known."""
        requests = [(self.prompt_tokens, self.completion_tokens)]
        if self.control is not None:
            requests.append((self.control.prompt_tokens, self.control.completion_tokens))
        known = [prompt + (answer or 0) for prompt, answer in requests if prompt is not None]
        return sum(known) if known else None

    @property
    def cold_ttft_seconds(self) -> float | None:
        """Time to first token of this turn's control, where that was cold."""
        control = self.control
        return control.ttft_seconds if control and control.outcome is ControlOutcome.COLD else None

    @property
    def ttft_saved_seconds(self) -> float | None:
        """Cold minus warm: what the cache saved this turn. Below 0 where chance outweighs it.

        None where nothing was cached: then the two requests are the same, and differ by chance.
        """
        cold, warm = self.cold_ttft_seconds, self.ttft_seconds
        return None if cold is None or warm is None or not self.cached_tokens else cold - warm


class BreakReason(StrEnum):
    """Why a prompt does not begin with the turn before it; the last two are not the template's
    fault.
    """

    SYSTEM_PROMPT_MOVED = "system_prompt_moved"
    REASONING_STRIPPED = "reasoning_stripped"
    TOOLS_REORDERED = "tools_reordered"
    VALUE_CHANGED = "value_changed"  # a date, a time or an id that is another one at each request
    HISTORY_REWRITTEN = "history_rewritten"
    COMPLETION_REENCODED = "completion_reencoded"  # the answer's text encodes to other ids
    ANSWER_LEFT_OUT = "answer_left_out"  # it was all reasoning, of which a history keeps nothing


@dataclass(frozen=True, slots=True)
class PrefixBreak:
    """Where the prompt of `turn` parts from the prompt and the answer of the turn before.

    `token_index` counts from 0 in that earlier sequence of `sequence_tokens` tokens. `message` is
    the number (1…) and `role` the role of the message that stands there in the earlier prompt, None
    where it cannot be told; the answer's role is "assistant". The texts are what precedes the
    break, and what the two sequences go on with: prompt text that stays out of logs and metrics.
    """

    turn: int
    token_index: int
    sequence_tokens: int
    reason: BreakReason
    message: int | None
    role: str | None
    before: str | None = field(default=None, repr=False)
    earlier: str | None = field(default=None, repr=False)
    later: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PrefixStability:
    """Whether each turn's prompt began with the turn before, over `turns_compared` pairs of turns.

    `stable` is about the chat template: an answer whose text does not encode back to its ids, or
    that had no text, is a `first_break` of its own reason and leaves it true.
    """

    stable: bool
    turns_compared: int
    first_break: PrefixBreak | None = None


@dataclass(frozen=True, slots=True)
class SessionResult:
    """One played session, finished or not. `turns` holds every turn that did finish.

    `extra_tokens` are prompt and completion tokens of requests beside the turns. `prefix` is None
    where the token ids of two turns in a row are not known. `nonce_in_prompt`: the engine ignores
    or refuses cache_salt, so the first message began with words of this session alone.
    """

    target: str
    scenario: str
    simulated: bool
    model: str | None
    engine_version: str | None
    started_time: float
    duration_seconds: float
    turns: tuple[TurnFacts, ...]
    failure: Failure | None = None
    failed_turn: int | None = None
    notices: frozenset[Notice] = frozenset()
    prefix: PrefixStability | None = None
    extra_tokens: int = 0
    nonce_in_prompt: bool = False

    @property
    def consumed_tokens(self) -> int:
        """All that the session is known to have asked of the engine, in tokens."""
        return self.extra_tokens + sum(turn.consumed_tokens or 0 for turn in self.turns)


@dataclass(frozen=True, slots=True)
class SaltReading:
    """One prompt, sent twice under one salt and once under another; None is unknown.

    `leaked`: a salt never used before was served from cache. `wedged`: the same salt was not,
    although there was room.
    """

    target: str
    leaked: bool | None
    wedged: bool | None


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """What `vllm:cache_config_info` says, the same on all ranks, else None.

    `match_unit_tokens` is the token boundary that a prefix hit can land on.
    """

    match_unit_tokens: int | None
    block_size: int | None
    prefix_caching: bool | None
    num_blocks: int | None
    capacity_tokens: int | None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself on /v1/models and /version."""

    model: str
    max_model_len: int | None
    version: str | None
    simulated: bool


PartKey = tuple[tuple[str, str], ...]
"""Labels that tell engines apart, as pairs of name and value."""


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """One reading of vLLM's own /metrics, all engine ranks together. Counters are as vLLM counts.

    Counters and the two request gauges are added up over the ranks; `kv_cache_usage_ratio` is the
    ranks' mean (their caches have one size). None: the family is missing or NaN. `asleep`: a rank
    sleeps (/sleep), so requests wait until somebody wakes it. `queried_tokens` and `hit_tokens` are
    multiples of `lookup_step_tokens`: an engine that counts blocks leaves out what fills none.
    `speculative`: a smaller model or a part of this one guesses tokens ahead.

    `queried_tokens` may be far more than all prompts (engine/lookups.py), `prompt_tokens` never is.

    `parts` is empty on an engine's own page. On a page whose series have labels that vLLM does not
    put on them it has what each engine says, and the rest of the snapshot is all of them together.
    """

    at: float
    scrape_seconds: float
    ranks: int
    model_names: tuple[str, ...]
    process_start_time: float | None
    queried_tokens: float | None
    hit_tokens: float | None
    cached_prompt_tokens: float | None
    prompt_tokens: float | None
    generation_tokens: float | None
    preemptions: float | None
    kv_cache_usage_ratio: float | None
    requests_running: float | None
    requests_waiting: float | None
    hit_rate_gauge: float | None  # of a V0 engine, which has no counters of lookups
    cache: CacheConfig | None
    iteration_tokens: float | None = None
    asleep: bool | None = None
    lookup_step_tokens: int = 1
    speculative: bool | None = None
    parts: Mapping[PartKey, EngineSnapshot] = field(default_factory=dict, repr=False)

    @property
    def told_apart_by(self) -> tuple[str, ...]:
        """The labels that are not vLLM's."""
        return tuple(sorted({name for key in self.parts for name, _ in key}))


@dataclass(frozen=True, slots=True)
class ScrapeFailure:
    """vLLM's /metrics could not be read."""

    at: float
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class EngineTotals:
    """vLLM's counters carried over its restarts: they never go back. None until first seen."""

    queried_tokens: float | None = None
    hit_tokens: float | None = None
    saved_tokens: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    preemptions: float | None = None


@dataclass(frozen=True, slots=True)
class EngineView:
    """All that is known of one engine after a scrape, good or bad.

    `hit_ratios` maps a window ("1m", "5m", "1h") to hits / queries of all traffic within it; a
    window without traffic is not in it. `restarts` counts the process starts seen. `mixed`: not
    long ago more than one process answered at this URL, in turn. `recounted`: within the last hour
    the engine counted more lookups than its prompts explain; `totals` and `hit_ratios` leave those
    times out. `recounts` says how often that was, and `lookups_open` that `totals` lack what was
    looked up last, because the prompts that explain it may still follow (engine/lookups.py).
    """

    target: str
    snapshot: EngineSnapshot | None
    failure: ScrapeFailure | None
    totals: EngineTotals
    hit_ratios: Mapping[str, float]
    restarts: int
    info: EngineInfo | None
    mixed: bool = False
    recounted: bool = False
    recounts: int = 0
    lookups_open: bool = False


class RetentionUnknown(StrEnum):
    """Why a gap's retention could not be told."""

    FAILED = "failed"  # the engine could not be asked, or a request failed
    CACHING_OFF = "caching_off"
    BLOCK_UNKNOWN = "block_unknown"
    UNREPORTED = "unreported"  # the server does not say how many tokens were cached
    NOT_COLD = "not_cold"  # the prefix was cached before it was written
    TOO_SHORT = "too_short"  # not one whole block fits the model's context
    NEVER_HIT = "never_hit"  # nothing hit, and this process never hit a prompt that was sent again
    TRANSFER = "transfer"  # usage counts as cached what came from another engine
    RESTARTED = "restarted"  # another process answered: nothing can have survived that
    MIXED = "mixed"  # several engines answer at this URL, and the read may have met another one
    LATE = "late"  # the prefix was read too long after the gap


@dataclass(frozen=True, slots=True)
class RetentionReading:
    """The share (0…1) of a prefix still cached after `gap_seconds` untouched, or why it is None."""

    target: str
    gap_seconds: float
    ratio: float | None
    unknown: RetentionUnknown | None = None
