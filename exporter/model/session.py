"""What a session shows about the cache, turn by turn.

pydantic writes these records as JSON, reads them back and describes them for the API
(wording/session_json.py). So the docstrings of these records and their fields are public.
"""

# No `from __future__ import annotations`: pydantic reads these types at run time.

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    AliasPath,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    computed_field,
    field_serializer,
    with_config,
)

# Python 3.11's own TypedDict keeps too little for pydantic to read.
from typing_extensions import TypedDict

from exporter.model.chat import CachedTokensSource
from exporter.model.failure import Failure, FailureReason
from exporter.model.json_fields import JSON, Ratio, Seconds, Tokens, UnixTime, read_as
from exporter.model.reuse import ReuseRule, RuleLoss


class LossCause(StrEnum):
    """What took the tokens that this engine could have served. Exactly one per turn."""

    DISABLED = "disabled"
    MIXED = "mixed"  # several replicas answer at this URL, each with its own cache
    RESTART = "restart"
    UNREPORTED = "unreported"  # the engine counted the hit, but its usage did not report it
    WEDGED = "wedged"  # there is room, this process hit before, and an identical prompt misses
    NEVER_HIT = "never_hit"  # there is room, and an identical prompt never hit in this process
    EVICTED = "evicted"
    OTHER_RANK = "other_rank"
    RESET = "reset"  # the cache was emptied although it had room, as by /reset_prefix_cache
    UNEXPLAINED = "unexplained"


class Notice(StrEnum):
    """A fact that a reader of a session's numbers must know; wording/notices.py has the words."""

    SIMULATED = "simulated"
    USAGE_DETAILS_MISSING = "usage_details_missing"
    USAGE_MISSING = "usage_missing"
    USAGE_UNUSABLE = "usage_unusable"
    PREFIX_CACHING_DISABLED = "prefix_caching_disabled"
    TOKEN_IDS_MISSING = "token_ids_missing"  # noqa: S105 - a notice, not a secret
    MATCH_UNIT_UNKNOWN = "match_unit_unknown"
    MATCH_UNIT_DIFFERS = "match_unit_differs"
    REUSE_RULE_UNKNOWN = "reuse_rule_unknown"
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
    RANK_GONE = "rank_gone"
    CAPACITY_UNKNOWN = "capacity_unknown"


@with_config(JSON | {"title": "LossJson"})
@dataclass(frozen=True, slots=True)
class Loss:
    """Tokens that this engine could have served and did not."""

    tokens: Tokens
    cause: LossCause
    evidence: str


class ControlOutcome(StrEnum):
    """The result of a cold control; only a cold one counts."""

    COLD = "cold"
    NOT_COLD = "not_cold"  # it hit under a salt that was never used: the server ignores salts
    UNREPORTED = "unreported"  # the server does not report cached tokens
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Control:
    """A turn's messages, sent again under a new salt right before or after that turn.

    `ttft_seconds` is None if the control failed or its answer had no text.
    """

    outcome: ControlOutcome
    before_turn: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    ttft_seconds: float | None

    @property
    def cold_ttft_seconds(self) -> float | None:
        """None if it was not cold."""
        return self.ttft_seconds if self.outcome is ControlOutcome.COLD else None


def _cold_control(ttft_seconds: float | None, turn: ValidationInfo) -> Control | None:
    # JSON has only the time of a cold control. Its prompt is that of its turn.
    if ttft_seconds is None:
        return None
    prompt = turn.data.get("prompt_tokens")
    return Control(ControlOutcome.COLD, False, prompt, None, ttft_seconds)


def _cold_ttft(control: Control | None) -> float | None:
    return None if control is None else control.cold_ttft_seconds


@with_config(JSON | {"title": "TurnJson"})
@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFacts:
    """One request and its streamed answer."""

    index: Annotated[int, Field(ge=1, alias="turn")]
    prompt_tokens: Tokens | None
    completion_tokens: Tokens | None = None
    cached_tokens: Tokens | None
    ideal_cached_tokens: Tokens | None = None
    """The most that exact-prefix caching could have served."""
    hit_ratio: Ratio | None
    """Cached tokens / prompt tokens."""
    efficiency_ratio: Ratio | None = None
    """Cached tokens / attainable cached tokens; null if that is 0."""
    tokens_saved: Tokens | None = None
    ttft_seconds: Seconds | None
    """Time to first token, as the client saw it."""
    latency_seconds: Seconds
    loss: Loss | None = None
    """Attainable minus cached tokens."""
    control: Annotated[
        Control | None,
        read_as(Seconds | None, _cold_control),
        PlainSerializer(_cold_ttft, Seconds | None),
        Field(alias="cold_ttft_seconds"),
    ] = None
    """Of this turn's cold control; null without one, or if it was not cold."""
    cached_tokens_source: CachedTokensSource | None = None
    """Where the number of cached tokens comes from; null if it is unknown."""
    attainable_cached_tokens: Tokens | None = None
    """The most that the engine's reuse rule lets it serve; null while the rule is unknown."""
    rule_losses: tuple[RuleLoss, ...] = ()
    """Ideal minus attainable cached tokens, by the part of the reuse rule that gives them up."""
    replica: str | None = None
    """The replica that computed the turn, by its host and port; null where that is unknown."""
    request_id: str | None = None
    """The header X-Request-Id of its request. vLLM logs it as chatcmpl-…"""
    external_cached_tokens: Tokens | None = None
    """Cached tokens from a tier below the engine's own cache, such as a KV store. Null: unknown, or
    there is no such tier."""
    inter_token_seconds: Annotated[tuple[float, ...], Field(exclude=True)] = ()
    sent_at: Annotated[float | None, Field(exclude=True)] = None  # monotonic seconds

    @property
    def ideal_hit_ratio(self) -> float | None:
        """Ideal cached tokens / prompt tokens."""
        ideal, prompt = self.ideal_cached_tokens, self.prompt_tokens
        return None if ideal is None or not prompt else ideal / prompt

    @property
    def attainable_hit_ratio(self) -> float | None:
        """Attainable cached tokens / prompt tokens."""
        attainable, prompt = self.attainable_cached_tokens, self.prompt_tokens
        return None if attainable is None or not prompt else attainable / prompt

    @property
    def consumed_tokens(self) -> int | None:
        """Prompt and completion tokens of the turn and its control, as far as they are known."""
        requests = [(self.prompt_tokens, self.completion_tokens)]
        if self.control is not None:
            requests.append((self.control.prompt_tokens, self.control.completion_tokens))
        known = [prompt + (answer or 0) for prompt, answer in requests if prompt is not None]
        return sum(known) if known else None

    @property
    def cold_ttft_seconds(self) -> float | None:
        """Time to first token of this turn's control, if that was cold."""
        return _cold_ttft(self.control)

    @computed_field(description="Cold minus warm; below 0 if chance outweighs the cache.")  # type: ignore[prop-decorator]  # mypy supports no decorator on a property
    @property
    def ttft_saved_seconds(self) -> float | None:
        """None without cached tokens: then the two requests differ only by chance."""
        cold, warm = self.cold_ttft_seconds, self.ttft_seconds
        return None if cold is None or warm is None or not self.cached_tokens else cold - warm


class BreakReason(StrEnum):
    """Why a prompt does not begin with the turn before it.

    The chat template is not the cause of the last two.
    """

    SYSTEM_PROMPT_MOVED = "system_prompt_moved"
    REASONING_STRIPPED = "reasoning_stripped"
    TOOLS_REORDERED = "tools_reordered"
    VALUE_CHANGED = "value_changed"  # a date, a time or an id that differs between two requests
    HISTORY_REWRITTEN = "history_rewritten"
    COMPLETION_REENCODED = "completion_reencoded"  # the answer's text is tokenized to other ids
    ANSWER_LEFT_OUT = "answer_left_out"  # all of it was reasoning, which the history does not keep


_Text = Annotated[str | None, Field(exclude=True)]  # prompt text: not for logs, metrics or JSON


@with_config(JSON | {"title": "PrefixBreakJson"})
@dataclass(frozen=True, slots=True)
class PrefixBreak:
    """Where the prompt of a turn differs from the turn before it."""

    turn: int
    token_index: int
    """From 0, in the earlier prompt and its answer."""
    sequence_tokens: int
    reason: BreakReason
    message: int | None
    """The number (1…) of the message in which it differs."""
    role: str | None
    before: _Text = field(default=None, repr=False)
    earlier: _Text = field(default=None, repr=False)
    later: _Text = field(default=None, repr=False)


@with_config(JSON | {"title": "PrefixJson"})
@dataclass(frozen=True, slots=True)
class PrefixStability:
    """Whether each turn's prompt began with the turn before it."""

    # `stable` is about the chat template. It stays true if the text of an answer encodes to other
    # ids, or if an answer has no text: these are a `first_break` with their own reasons.
    stable: bool
    turns_compared: int
    first_break: PrefixBreak | None = None


@with_config(JSON)
class FailureJson(TypedDict):
    """Why a session did not finish."""

    reason: FailureReason
    detail: str
    turn: int | None
    """The turn that did not finish; null if none had begun."""
    request_id: str | None
    """Of the request that failed; null if no turn had begun."""


def _known_notices(told: Any) -> Any:
    # A file of a later version may have others.
    return frozenset(each for each in Notice if each in told) if isinstance(told, list) else told


@with_config(JSON | {"title": "SessionJson"})
@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """One session with its finished turns, whether the session finished or not."""

    target: str
    scenario: str
    simulated: bool
    started_time: Annotated[UnixTime, Field(alias="started")]
    failure: Failure | None = None
    turns: tuple[TurnFacts, ...]
    duration_seconds: Seconds
    model: str | None
    engine_version: str | None
    notices: Annotated[
        frozenset[Notice], BeforeValidator(_known_notices), PlainSerializer(sorted, list[Notice])
    ] = frozenset()
    """What a reader of the numbers must know."""
    prefix: PrefixStability | None = None
    """Null if token ids are unknown."""
    extra_tokens: Tokens = 0
    """Prompt and completion tokens of requests besides the turns."""
    nonce_in_prompt: bool = False
    """The engine ignores or refuses cache_salt, so the first message begins with random words."""
    reuse_rule: ReuseRule | None = None
    """How much of a known prefix this engine process serves; null while it is unknown."""
    data_parallel_rank: Annotated[int, Field(ge=0)] | None = None
    """The rank that all its requests were pinned to; null if vLLM chose the ranks."""
    api: str = "chat_completions"
    """The API that it was played over, by the names of the setting `probe.api`."""
    heartbeat: Annotated[bool, Field(exclude=True)] = False  # a short one between full sessions
    started_at: Annotated[float | None, Field(exclude=True)] = None  # monotonic seconds
    failed_sent_at: Annotated[float | None, Field(exclude=True)] = None  # of the failed turn
    failed_turn: Annotated[
        int | None, Field(exclude=True, validation_alias=AliasPath("failure", "turn"))
    ] = None
    failed_request_id: Annotated[
        str | None, Field(exclude=True, validation_alias=AliasPath("failure", "request_id"))
    ] = None

    @field_serializer("failure")
    def failure_json(self, failure: Failure | None) -> FailureJson | None:
        if failure is None:
            return None
        return {
            "reason": failure.reason,
            "detail": failure.detail,
            "turn": self.failed_turn,
            "request_id": self.failed_request_id,
        }

    @property
    def consumed_tokens(self) -> int:
        """All tokens that the session is known to have cost the engine."""
        return self.extra_tokens + sum(turn.consumed_tokens or 0 for turn in self.turns)
