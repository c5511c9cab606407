"""Sentences about the requests of a recording: what was changed, what it costs, what to do. Pure.

A text of a request is in a sentence only if `show_text` says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.model.explained import ChangeReason
from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.analysis.requests.totals import Finding, Totals
    from exporter.model.explained import Change, Place, ReplayedRequest

_WHAT: Final = {
    ChangeReason.TIME: "a time",
    ChangeReason.DATE: "a date",
    ChangeReason.ID: "an id",
    ChangeReason.COUNTER: "a number",
    ChangeReason.BILLING_LINE: "a billing or attribution line",
    ChangeReason.TOOLS_ADDED: "added tools",
    ChangeReason.TOOLS_REMOVED: "removed tools",
    ChangeReason.TOOLS_REORDERED: "tools in another order",
    ChangeReason.KEYS_REORDERED: "JSON keys in another order",
    ChangeReason.WHITESPACE: "other white space or other escapes",
    ChangeReason.REASONING_STRIPPED: "reasoning that was left out",
    ChangeReason.REASONING_ECHOED: "reasoning that was added",
    ChangeReason.HISTORY_TRUNCATED: "messages removed from the history",
    ChangeReason.HISTORY_COMPACTED: "messages replaced by fewer",
    ChangeReason.HISTORY_EDITED: "messages inserted into the history or replaced",
    ChangeReason.TEXT_EDITED: "an edited text",
    ChangeReason.TEMPLATE_ARGUMENTS: "other template arguments",
    ChangeReason.MODEL_CHANGED: "another model or adapter",
    ChangeReason.SALT_CHANGED: "another cache_salt",
    ChangeReason.TEMPLATE: "the chat template, which wrote the same messages in another way",
}
_REMEDY: Final = {
    ChangeReason.TIME: "move it to the last message, or leave it out",
    ChangeReason.DATE: "move it to the last message; if it must stay, change it once a day only",
    ChangeReason.ID: "move it to the last message, or keep one id for the whole conversation",
    ChangeReason.COUNTER: "move it to the last message, or leave it out",
    ChangeReason.BILLING_LINE: "turn it off in the client, or remove it in a proxy. vLLM 0.32 "
    "drops Claude Code's where it begins the system prompt (--url shows it)",
    ChangeReason.TOOLS_ADDED: "send all tools from the first request on, or add them at the end of "
    "the list",
    ChangeReason.TOOLS_REMOVED: "keep the list of tools, and forbid a tool with tool_choice or in "
    "the last message",
    ChangeReason.TOOLS_REORDERED: "sort the tools by name before each request",
    ChangeReason.KEYS_REORDERED: "keep the order of keys: send JSON as it was received, or sort it",
    ChangeReason.WHITESPACE: "send texts and JSON byte for byte as they were sent before",
    ChangeReason.REASONING_STRIPPED: "send the reasoning back if the chat template keeps it; if "
    "the template drops it, this cannot be avoided",
    ChangeReason.REASONING_ECHOED: "send earlier answers in one way: always with their reasoning, "
    "or never",
    ChangeReason.HISTORY_TRUNCATED: "remove old messages seldom and many at a time, not some in "
    "each request",
    ChangeReason.HISTORY_COMPACTED: "compact seldom: each time all that follows is computed anew",
    ChangeReason.HISTORY_EDITED: "append to the history, and leave what was sent as it is",
    ChangeReason.TEXT_EDITED: "leave what was sent as it is, and append what is new",
    ChangeReason.TEMPLATE_ARGUMENTS: "keep template arguments the same in a conversation",
    ChangeReason.MODEL_CHANGED: "keep one model or adapter for a conversation",
    ChangeReason.SALT_CHANGED: "keep one cache_salt for all requests that may share a cache",
    ChangeReason.TEMPLATE: "use a chat template that only appends (`check` tests it)",
}


def where(place: Place) -> str:
    """A place in words, with the character of the first difference."""
    named = _section(place)
    details = [f"message {place.number}"] if place.section == "system" and place.number else []
    if place.field not in {None, "content"}:
        details.append(str(place.field))
    if place.character is not None:
        details.append(f"character {place.character:,}")
    return f"{named} ({', '.join(details)})" if details else named


def _section(place: Place) -> str:
    if place.section == "system":
        return "the system prompt"
    if place.section == "tools":
        return f"tool {place.number}, {place.name}"
    if place.section == "message" and place.number is not None:
        return f"message {place.number} ({place.name})"
    return {"model": "the model", "salt": "the salt", "settings": str(place.name)}.get(
        place.section, "the messages"
    )


def cause(change: Change) -> str:
    """The reason and the place of a change."""
    return f"{_WHAT[change.reason]} in {where(change.place)}"


def finding(found: Finding) -> str:
    """What a change costs, and what to do about it."""
    lost = f"{numbers.percent(found.share)} of the reusable tokens are lost to"
    return f"{lost} {cause(found.change)}: {_REMEDY[found.change.reason]}."


def extent(found: Finding, seconds_per_token: float | None) -> str:
    """How often a change occurs, and the prefill time that it costs where that is known."""
    requests = "1 request" if found.requests == 1 else f"{found.requests:,} requests"
    cost = numbers.tokens(found.changed_tokens)
    if seconds_per_token is not None:
        cost += f", about {numbers.seconds(found.changed_tokens * seconds_per_token)} of prefill,"
    return f"{cost} in {requests}, first in {found.first.request.place}"


def difference(change: Change) -> str:
    """The two texts of a change. Only for `--show-text`."""
    return f"was «{change.earlier}», is «{change.later}»"


def conclusion(totals: Totals, *, estimated: bool) -> str:
    """The whole recording in one sentence."""
    about = "about " if estimated else ""
    parts = (
        (totals.reusable_tokens, "can be reused"),
        (totals.changed_tokens, "could be, but the client changed what comes before them"),
        (totals.new_tokens, "are new"),
    )
    shares = "; ".join(
        f"{numbers.percent(tokens / totals.prompt_tokens if totals.prompt_tokens else None)} {what}"
        for tokens, what in parts
    )
    return f"Of {about}{numbers.tokens(totals.prompt_tokens)} of prompts {shares}."


def replayed(played: Sequence[ReplayedRequest], seconds_per_token: float | None) -> str:
    """What the engine served when the requests were sent again."""
    known = [one for one in played if one.cached_tokens is not None]
    failures = [one.failure for one in played if one.failure is not None]
    if not known:
        return f"Replay: no cached tokens are known: {next(iter(failures), _NOT_TOLD)}."
    lost = sum(one.lost_tokens or 0 for one in known)
    attainable = sum(one.reusable_tokens for one in known)
    cached = sum(one.cached_tokens or 0 for one in known)
    said = (
        f"Replay, with one salt for each conversation: the engine served {cached:,} of "
        f"{numbers.tokens(attainable)} that it could"
    )
    said += f"; it lost {lost:,} itself" if lost else "; it lost nothing"
    if lost and seconds_per_token is not None:
        said += f", about {numbers.seconds(lost * seconds_per_token)} of prefill"
    if failures:
        said += f". {len(failures):,} of {len(played):,} requests failed, first: {failures[0]}"
    return f"{said}."


_NOT_TOLD = "the engine does not report them (start it with --enable-prompt-tokens-details)"
ESTIMATED = (
    "The token counts are estimates without an engine; with --url they are exact, and the chat "
    "template counts too."
)
NOTHING = "Nothing to change: each request begins with all of the one that it continues."
NOTHING_REPEATED = "No request repeats enough of an earlier one to reuse it."
