"""What `probe --json` writes about one session or several. Unknown is null. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exporter.analysis.session_totals import session_totals
from exporter.report.session.several import spreads
from exporter.report.session.text import conclusion
from exporter.wording.session_json import session_json
from exporter.wording.verdict import notes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model.session import SessionResult


def probe_json(result: SessionResult, url: str, *, interrupted: bool) -> dict[str, Any]:
    """A session as in the API, with its URL, its sums and its verdict.

    Keys may be added at the end; none is ever renamed or removed.
    """
    totals = session_totals(result.turns)
    return session_json(result) | {
        "interrupted": interrupted,
        "url": url,
        "hit_ratio": totals.hit_ratio,
        "efficiency_ratio": totals.efficiency_ratio,
        "totals": {
            "turns": totals.turns,
            "prompt_tokens": totals.prompt_tokens,
            "completion_tokens": totals.completion_tokens,
            "cached_tokens": totals.cached_tokens,
            "external_cached_tokens": totals.external_tokens,
            "ideal_cached_tokens": totals.ideal_tokens,
            "attainable_cached_tokens": totals.attainable_tokens,
            "lost_tokens": totals.lost_tokens,
            "lost_by": dict(totals.lost_by),
            "rule_lost_by": dict(totals.rule_lost_by),
        },
        "verdict": conclusion(result, interrupted=interrupted),
        "notes": notes(result),
    }


def sessions_json(
    results: Sequence[SessionResult], url: str, *, interrupted: bool
) -> dict[str, Any]:
    """Several sessions, and the median and quartiles of each quantity that is known."""
    return {
        "url": url,
        "sessions": [probe_json(each, url, interrupted=False) for each in results],
        "spreads": {name: asdict(known) for name, known in spreads(results).items()},
        "interrupted": interrupted,
    }
