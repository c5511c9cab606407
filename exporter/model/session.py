"""What a session says of the cache, turn by turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.model.chat import CachedTokensSource
    from exporter.model.failure import Failure


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
