"""What each request of a recording could have reused, and what its client changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.model.recorded import RecordedRequest, Skipped


class ChangeReason(StrEnum):
    """Why a request does not begin like the one that it continues."""

    TIME = "time"
    DATE = "date"
    ID = "id"
    COUNTER = "counter"
    BILLING_LINE = "billing_line"
    TOOLS_ADDED = "tools_added"
    TOOLS_REMOVED = "tools_removed"
    TOOLS_REORDERED = "tools_reordered"
    KEYS_REORDERED = "keys_reordered"
    WHITESPACE = "whitespace"
    REASONING_STRIPPED = "reasoning_stripped"
    REASONING_ECHOED = "reasoning_echoed"
    HISTORY_TRUNCATED = "history_truncated"
    HISTORY_COMPACTED = "history_compacted"
    HISTORY_EDITED = "history_edited"
    TEXT_EDITED = "text_edited"
    TEMPLATE_ARGUMENTS = "template_arguments"
    MODEL_CHANGED = "model_changed"
    SALT_CHANGED = "salt_changed"
    TEMPLATE = "template"  # the chat template wrote the same messages in another way


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request was changed.

    `section` is `model`, `salt`, `settings`, `tools`, `system` or `message`; `number` the message
    (1…) or the tool (1…) in its list, `name` the role, the tool or the setting. `character` (1…) is
    that of the first difference in the text of the field.
    """

    section: str
    number: int | None = None
    name: str | None = None
    field: str | None = None
    character: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One change between a request and the earlier one, with the two texts from there on."""

    reason: ChangeReason
    place: Place
    earlier: str = field(default="", repr=False)
    later: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ExplainedRequest:
    """One request: its tokens, and why some of them could not be reused.

    Every prompt token is in one of three parts: `reusable`, `changed` or new. `reusable` is what
    the earlier requests allow by the reuse rule; `changed` tokens were in the request that this one
    continues, but after a change. `parent` is the index of that request in the recording; None if
    nothing is shared. `parts_at` is the token (0…) of the first difference from it, None where the
    request goes on from its end. `changes` are those of the client, the first in the prompt first;
    none if they cost nothing.
    """

    request: RecordedRequest
    conversation: int
    parent: int | None
    prompt_tokens: int
    reusable_tokens: int
    changed_tokens: int = 0
    parts_at: int | None = None
    changes: tuple[Change, ...] = ()

    @property
    def new_tokens(self) -> int:
        """Prompt tokens that no earlier request has."""
        return self.prompt_tokens - self.reusable_tokens - self.changed_tokens

    @property
    def change(self) -> Change | None:
        """The first change, which decides what can be reused."""
        return self.changes[0] if self.changes else None


@dataclass(frozen=True, slots=True)
class ReplayedRequest:
    """One request that was sent again: what the engine served, and what it could have.

    Each conversation has a salt of its own, so `reusable_tokens` can be less than those of the
    recording, where conversations share. `seconds` is the time to the first token. `cached_tokens`
    is None if the engine does not say. `failure` says why it was not answered.
    """

    reusable_tokens: int
    cached_tokens: int | None = None
    prompt_tokens: int | None = None
    seconds: float | None = None
    failure: str | None = None

    @property
    def lost_tokens(self) -> int | None:
        """What the engine lost of what it could have served."""
        if self.cached_tokens is None:
            return None
        return max(0, self.reusable_tokens - self.cached_tokens)


@dataclass(frozen=True, slots=True)
class ExplainedRecording:
    """All of a recording. Without an `engine` (its URL) the numbers of tokens are estimates.

    `seconds_per_token` is what a prompt token costs this engine in prefill, and `replayed` is in
    the order of `requests`; both are None if they were not measured. `trace` is what the requests
    share without their texts, a line for each; None if it was not asked for.
    """

    source: str
    requests: Sequence[ExplainedRequest]
    skipped: Sequence[Skipped]
    unit_tokens: int
    engine: str | None = None
    seconds_per_token: float | None = None
    replayed: Sequence[ReplayedRequest] | None = None
    trace: Sequence[Mapping[str, Any]] | None = field(default=None, repr=False)

    @property
    def estimated(self) -> bool:
        """Whether no engine told the tokens."""
        return self.engine is None
