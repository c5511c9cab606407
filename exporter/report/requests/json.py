"""The requests of a recording as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exporter.analysis.requests.totals import findings_of, totals_of
from exporter.wording import requests as words

if TYPE_CHECKING:
    from exporter.analysis.requests.totals import Finding
    from exporter.model.explained import Change, ExplainedRecording


def requests_json(found: ExplainedRecording, *, show_text: bool = False) -> dict[str, Any]:
    """All that the report says, in tokens and seconds. Texts of requests only with `show_text`."""
    requests = found.requests
    totals = totals_of(requests)
    return {
        "source": found.source,
        "engine": found.engine,
        "estimated": found.estimated,
        "unit_tokens": found.unit_tokens,
        "prefill_seconds_per_token": found.seconds_per_token,
        "totals": {
            **asdict(totals),
            "new_tokens": totals.new_tokens,
            "reusable_ratio": totals.reusable_ratio,
        },
        "findings": [_finding(each, found, show_text=show_text) for each in findings_of(requests)],
        "requests": [_request(index, found, show_text=show_text) for index in range(len(requests))],
        "skipped": [asdict(each) for each in found.skipped],
    }


def _finding(finding: Finding, found: ExplainedRecording, *, show_text: bool) -> dict[str, Any]:
    cost = found.seconds_per_token
    return {
        **_change(finding.change, show_text=show_text),
        "first": finding.first.request.place,
        "requests": finding.requests,
        "changed_tokens": finding.changed_tokens,
        "changed_prefill_seconds": None if cost is None else cost * finding.changed_tokens,
        "share": finding.share,
        "text": words.finding(finding),
    }


def _request(index: int, found: ExplainedRecording, *, show_text: bool) -> dict[str, Any]:
    one = found.requests[index]
    replayed = None if found.replayed is None else found.replayed[index]
    parent = None if one.parent is None else found.requests[one.parent]
    return {
        "place": one.request.place,
        "api": one.request.api,
        "model": one.request.model,
        "conversation": one.conversation,
        "continues": None if parent is None else parent.request.place,
        "prompt_tokens": one.prompt_tokens,
        "reusable_tokens": one.reusable_tokens,
        "changed_tokens": one.changed_tokens,
        "new_tokens": one.new_tokens,
        "parts_at_token": one.parts_at,
        "changes": [_change(each, show_text=show_text) for each in one.changes],
        "recorded": asdict(one.request.usage),
        "replayed": None if replayed is None else asdict(replayed),
    }


def _change(change: Change, *, show_text: bool) -> dict[str, Any]:
    texts = {"earlier": change.earlier, "later": change.later} if show_text else {}
    return {"reason": change.reason, "place": asdict(change.place), **texts}
