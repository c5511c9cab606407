"""A session as JSON, for `probe --json` and for the HTTP API: one shape, unknown is null. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.model.failure import Failure
    from exporter.model.session import PrefixStability, SessionResult, TurnFacts
    from exporter.wording.session_shape import FailureJson, PrefixJson, SessionJson, TurnJson


def session_json(result: SessionResult) -> SessionJson:
    """The keys of a session. Seconds, tokens, ratios 0…1; `started` is RFC 3339 in UTC.

    Keys may be added at the end; none is renamed or left out.
    """
    return {
        "target": result.target,
        "scenario": result.scenario,
        "simulated": result.simulated,
        "started": rfc3339(result.started_time),
        "failure": failure_json(result.failure, result.failed_turn),
        "turns": [_turn_json(turn) for turn in result.turns],
        "duration_seconds": result.duration_seconds,
        "model": result.model,
        "engine_version": result.engine_version,
        "notices": sorted(result.notices),
        "prefix": prefix_json(result.prefix),
        "extra_tokens": result.extra_tokens,
        "nonce_in_prompt": result.nonce_in_prompt,
    }


def prefix_json(prefix: PrefixStability | None) -> PrefixJson | None:
    """Without the text around a break, which is prompt text; null where token ids are unknown."""
    if prefix is None:
        return None
    found = prefix.first_break
    return {
        "stable": prefix.stable,
        "turns_compared": prefix.turns_compared,
        "first_break": None
        if found is None
        else {
            "turn": found.turn,
            "token_index": found.token_index,
            "sequence_tokens": found.sequence_tokens,
            "reason": found.reason,
            "message": found.message,
            "role": found.role,
        },
    }


def failure_json(failure: Failure | None, turn: int | None) -> FailureJson | None:
    """`turn` is the turn that did not finish, null where none had begun."""
    if failure is None:
        return None
    return {"reason": failure.reason, "detail": failure.detail, "turn": turn}


def _turn_json(turn: TurnFacts) -> TurnJson:
    loss = turn.loss
    return {
        "turn": turn.index,
        "prompt_tokens": turn.prompt_tokens,
        "completion_tokens": turn.completion_tokens,
        "cached_tokens": turn.cached_tokens,
        "ideal_cached_tokens": turn.ideal_cached_tokens,
        "hit_ratio": turn.hit_ratio,
        "efficiency_ratio": turn.efficiency_ratio,
        "tokens_saved": turn.tokens_saved,
        "ttft_seconds": turn.ttft_seconds,
        "latency_seconds": turn.latency_seconds,
        "loss": None
        if loss is None
        else {"tokens": loss.tokens, "cause": loss.cause, "evidence": loss.evidence},
        "cold_ttft_seconds": turn.cold_ttft_seconds,
        "ttft_saved_seconds": turn.ttft_saved_seconds,
        "cached_tokens_source": turn.cached_tokens_source,
    }


def rfc3339(unix_time: float) -> str:
    """A Unix time in UTC with milliseconds, as in 2026-01-31T12:00:00.000Z."""
    moment = datetime.fromtimestamp(unix_time, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
