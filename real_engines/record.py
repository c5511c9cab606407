"""The record of one engine: what it showed, without what differs from run to run. Pure.

A record holds what the exporter said, word for word, so that the page can be written again from it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exporter.wording.session_json import session_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.model.reuse import ReuseRule
    from real_engines.faults import Played
    from real_engines.measuring import Measured
    from real_engines.recipes import Recipe, SmallCache

_SESSION = ("failure", "notices", "prefix", "reuse_rule", "nonce_in_prompt")
_OF_THIS_RUN = "request_id"
_TURN = (
    *("turn", "prompt_tokens", "completion_tokens", "cached_tokens", "cached_tokens_source"),
    *("ideal_cached_tokens", "attainable_cached_tokens", "efficiency_ratio", "loss", "rule_losses"),
)
_CACHE = (
    *("block_size", "num_gpu_blocks", "kv_cache_size_tokens", "prefix_match_unit"),
    *("effective_attention_block_size", "sliding_window", "enable_prefix_caching"),
)
_FINDING = ("name", "verdict", "evidence", "remedy")


def record_of(recipe: Recipe, measured: Measured) -> dict[str, Any]:
    """The record. A key that this version of the exporter does not know yet is missing."""
    report = measured.check
    return {
        "name": recipe.name,
        "kind": recipe.kind,
        "note": recipe.note,
        "version": report["engine_version"],
        "measured": report["started"][:10],
        "cache": _picked(measured.engine.cache, *_CACHE),
        "told": dict(measured.told),
        "counters": {
            name: {"engine": own, "exporter": measured.exporter[name]}
            for name, own in measured.engine.counters.items()
        },
        "sessions": [_session(session) for session in measured.sessions],
        "check": {
            "exit_code": measured.check_code,
            "tests": [_picked(_anonymous(test), *_FINDING) for test in report["tests"]],
        },
    }


def faults_of(small: SmallCache, played: Sequence[Played]) -> dict[str, Any]:
    """What the exporter said of each session, with a fault or without one."""
    sessions = [session_json(one.result) for one in played]
    return {
        "measured": sessions[0]["started"][:10],
        "context_tokens": small.context_tokens,
        "blocks": small.blocks,
        "sessions": [
            {"fault": one.fault, "before_turn": one.turn, "rule_before": _plain(one.known)}
            | _session(session)
            for one, session in zip(played, sessions, strict=True)
        ],
    }


def _plain(rule: ReuseRule | None) -> dict[str, Any] | None:
    return None if rule is None else asdict(rule)


def _session(session: Mapping[str, Any]) -> dict[str, Any]:
    turns = [_picked(turn, *_TURN) for turn in session["turns"]]
    found = _picked(session, *_SESSION)
    if session.get("data_parallel_rank") is not None:
        found["data_parallel_rank"] = session["data_parallel_rank"]
    if (failure := found.get("failure")) is not None:
        found["failure"] = {key: failure[key] for key in failure if key != _OF_THIS_RUN}
    return found | {"turns": turns}


def _picked(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}


def _anonymous(test: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the address at which the engine was served."""
    words = re.sub(r"http://127\.0\.0\.1:\d+", "http://ENGINE", json.dumps(test))
    anonymous: Mapping[str, Any] = json.loads(words)
    return anonymous


def as_text(record: Mapping[str, Any]) -> str:
    """The record as JSON, with one line for each turn and each test."""
    pretty = json.dumps(record, indent=1, ensure_ascii=False)
    held = re.compile(r'\{\s*"(?:turn|name)": (?!"[^"]*",\s*"kind")[^{}]*(?:\{[^{}]*\}[^{}]*)*\}')
    return held.sub(lambda found: " ".join(found[0].split()), pretty) + "\n"
