"""The requests of a recording as JSON. `docs/schemas/explain.json` is made from these types."""

# No `from __future__ import annotations`: pydantic reads these types at run time.

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field, with_config
from pydantic.dataclasses import dataclass

from exporter.analysis.requests.totals import Finding, findings_of, totals_of
from exporter.model.explained import Change, ChangeReason, ExplainedRecording
from exporter.model.json_fields import JSON, Ratio, Seconds, Tokens
from exporter.model.recorded import Api
from exporter.wording import requests as words

Count = Annotated[int, Field(ge=1)]


@with_config(JSON)
@dataclass(frozen=True, slots=True)
class PlaceJson:
    """Where a request was changed."""

    section: str
    """`model`, `salt`, `settings`, `tools`, `system` or `message`."""
    number: Count | None
    """The message or the tool in its list."""
    name: str | None
    """The role of the message, the name of the tool or of the setting."""
    field: str | None
    """The field of the message, such as `content` or `tool_calls[0].arguments`."""
    character: Count | None
    """The first character that differs."""


@with_config(JSON)
@dataclass(frozen=True, slots=True)
class ChangeJson:
    """One change of a request since the one that it continues."""

    reason: ChangeReason
    place: PlaceJson
    earlier: str | None
    """The text that was there; null without `--show-text`."""
    later: str | None
    """The text that is there; null without `--show-text`."""


@with_config(JSON)
@dataclass(frozen=True, slots=True)
class FindingJson:
    """One reason in one section, over all requests."""

    change: ChangeJson
    """The change of the first request that has it."""
    first: str
    """The place of that request in the file."""
    requests: Count
    changed_tokens: Tokens
    changed_prefill_seconds: Seconds | None
    share: Ratio
    """Of all tokens that could be reused or could be but for changes."""
    text: str


@with_config(JSON)
@dataclass(frozen=True, slots=True)
class UsageJson:
    """What the engine said of a request when it was recorded; null is unknown."""

    prompt_tokens: Tokens | None
    completion_tokens: Tokens | None
    cached_tokens: Tokens | None


@with_config(JSON)
@dataclass(frozen=True, slots=True)
class ReplayedJson:
    """What the engine served when the request was sent again."""

    reusable_tokens: Tokens
    """With a salt for each conversation."""
    cached_tokens: Tokens | None
    prompt_tokens: Tokens | None
    seconds: Seconds | None
    """To the first token."""
    failure: str | None


@with_config(JSON)
@dataclass(frozen=True, slots=True)
class RequestJson:
    """One request. Reusable, changed and new tokens add up to the prompt's."""

    place: str
    api: Api
    model: str
    conversation: Count
    continues: str | None
    """The place of the earlier request that it shares most with."""
    prompt_tokens: Tokens
    reusable_tokens: Tokens
    changed_tokens: Tokens
    new_tokens: Tokens
    parts_at_token: Tokens | None
    """The first token (0…) that differs from the request that it continues, if any does."""
    changes: list[ChangeJson]
    recorded: UsageJson
    replayed: ReplayedJson | None


@with_config(JSON)
@dataclass(frozen=True, slots=True)
class TotalsJson:
    """Sums over all requests."""

    requests: Count
    conversations: Count
    prompt_tokens: Tokens
    reusable_tokens: Tokens
    changed_tokens: Tokens
    new_tokens: Tokens
    reusable_ratio: Ratio | None
    """reusable / (reusable + changed); null if nothing is repeated."""


@with_config(JSON)
@dataclass(frozen=True, slots=True)
class SkippedJson:
    """A line that was not used."""

    place: str
    reason: str


@with_config(JSON | {"title": "explain --json"})
@dataclass(frozen=True, slots=True)
class RecordingJson:
    """What `explain --json` prints."""

    source: str
    engine: str | None
    """The URL; null without an engine."""
    estimated: bool
    """Whether the tokens are estimates."""
    unit_tokens: Count
    """The tokens of a block."""
    prefill_seconds_per_token: Seconds | None
    totals: TotalsJson
    findings: list[FindingJson]
    requests: list[RequestJson]
    skipped: list[SkippedJson]
    before: TotalsJson | None
    """The totals of the recording of `--before`."""


def requests_json(
    found: ExplainedRecording,
    *,
    before: ExplainedRecording | None = None,
    show_text: bool = False,
) -> dict[str, Any]:
    """All that the report says, in tokens and seconds. Texts of requests only with `show_text`."""
    return asdict(
        RecordingJson(
            source=found.source,
            engine=found.engine,
            estimated=found.estimated,
            unit_tokens=found.unit_tokens,
            prefill_seconds_per_token=found.seconds_per_token,
            totals=_totals(found),
            findings=[
                _finding(each, found.seconds_per_token, show_text=show_text)
                for each in findings_of(found.requests)
            ],
            requests=[
                _request(index, found, show_text=show_text) for index in range(len(found.requests))
            ],
            skipped=[SkippedJson(each.place, each.reason) for each in found.skipped],
            before=None if before is None else _totals(before),
        )
    )


def _totals(found: ExplainedRecording) -> TotalsJson:
    totals = totals_of(found.requests)
    return TotalsJson(
        **asdict(totals), new_tokens=totals.new_tokens, reusable_ratio=totals.reusable_ratio
    )


def _finding(finding: Finding, cost: float | None, *, show_text: bool) -> FindingJson:
    return FindingJson(
        change=_change(finding.change, show_text=show_text),
        first=finding.first.request.place,
        requests=finding.requests,
        changed_tokens=finding.changed_tokens,
        changed_prefill_seconds=None if cost is None else cost * finding.changed_tokens,
        share=finding.share,
        text=words.finding(finding),
    )


def _request(index: int, found: ExplainedRecording, *, show_text: bool) -> RequestJson:
    one = found.requests[index]
    replayed = None if found.replayed is None else found.replayed[index]
    parent = None if one.parent is None else found.requests[one.parent]
    return RequestJson(
        place=one.request.place,
        api=one.request.api,
        model=one.request.model,
        conversation=one.conversation,
        continues=None if parent is None else parent.request.place,
        prompt_tokens=one.prompt_tokens,
        reusable_tokens=one.reusable_tokens,
        changed_tokens=one.changed_tokens,
        new_tokens=one.new_tokens,
        parts_at_token=one.parts_at,
        changes=_changes(one.changes, show_text=show_text),
        recorded=UsageJson(**asdict(one.request.usage)),
        replayed=None if replayed is None else ReplayedJson(**asdict(replayed)),
    )


def _changes(changes: Sequence[Change], *, show_text: bool) -> list[ChangeJson]:
    return [_change(each, show_text=show_text) for each in changes]


def _change(change: Change, *, show_text: bool) -> ChangeJson:
    earlier, later = (change.earlier, change.later) if show_text else (None, None)
    return ChangeJson(change.reason, PlaceJson(**asdict(change.place)), earlier, later)
