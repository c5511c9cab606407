"""The requests of a recording as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exporter.analysis.requests.totals import findings_of, totals_of
from exporter.wording import requests as words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model.explained import Change, ExplainedRequest
    from exporter.recording.reading import Skipped


def requests_json(
    requests: Sequence[ExplainedRequest],
    skipped: Sequence[Skipped],
    source: str,
    *,
    estimated: bool,
    show_text: bool = False,
) -> dict[str, Any]:
    """All that the report says, in tokens. Texts of requests only with `show_text`."""
    totals = totals_of(requests)
    return {
        "source": source,
        "estimated": estimated,
        "totals": {
            **asdict(totals),
            "new_tokens": totals.new_tokens,
            "reusable_ratio": totals.reusable_ratio,
        },
        "findings": [
            {
                "reason": found.change.reason,
                "requests": found.requests,
                "changed_tokens": found.changed_tokens,
                "share": found.share,
                "first": found.first.request.place,
                **_change(found.change, show_text=show_text),
                "text": words.finding(found),
            }
            for found in findings_of(requests)
        ],
        "requests": [
            {
                "place": one.request.place,
                "api": one.request.api,
                "model": one.request.model,
                "conversation": one.conversation,
                "continues": None if one.parent is None else requests[one.parent].request.place,
                "prompt_tokens": one.prompt_tokens,
                "reusable_tokens": one.reusable_tokens,
                "changed_tokens": one.changed_tokens,
                "new_tokens": one.new_tokens,
                "parts_at_token": one.parts_at,
                "changes": [_change(each, show_text=show_text) for each in one.changes],
            }
            for one in requests
        ],
        "skipped": [asdict(each) for each in skipped],
    }


def _change(change: Change, *, show_text: bool) -> dict[str, Any]:
    texts = {"earlier": change.earlier, "later": change.later} if show_text else {}
    return {"reason": change.reason, "place": asdict(change.place), **texts}
