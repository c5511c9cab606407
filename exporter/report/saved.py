"""Sessions read back from what `probe --json` wrote, or from /api/v1/sessions. Pure.

A file may hold several, one after another, as from a loop that appends to it.
"""

# No `from __future__ import annotations`: pydantic reads these types at run time.
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from exporter.errors import ConfigError
from exporter.model.failure import Failure, FailureReason
from exporter.model.session import Control, ControlOutcome, Loss, Notice, SessionResult, TurnFacts
from exporter.wording.session_shape import FailureJson, LossJson, Ratio, Seconds, Tokens


class _Turn(TypedDict):
    """The keys of a turn that a comparison reads; others may be there."""

    turn: Annotated[int, Field(ge=1, le=100_000)]
    prompt_tokens: Tokens | None
    completion_tokens: NotRequired[Tokens | None]
    cached_tokens: Tokens | None
    ideal_cached_tokens: NotRequired[Tokens | None]
    hit_ratio: Ratio | None
    efficiency_ratio: NotRequired[Ratio | None]
    ttft_seconds: Seconds | None
    latency_seconds: Seconds
    loss: NotRequired[LossJson | None]
    cold_ttft_seconds: NotRequired[Seconds | None]


class _Session(TypedDict):
    """The keys of a session that a comparison reads; others may be there."""

    target: str
    scenario: str
    simulated: bool
    started: datetime
    failure: FailureJson | None
    turns: list[_Turn]
    duration_seconds: Seconds
    model: str | None
    engine_version: str | None
    notices: NotRequired[list[str]]
    interrupted: NotRequired[bool]


def read_sessions(file: str, text: str) -> list[SessionResult]:
    """The sessions in a file, as they were played. Raises `ConfigError` with file and field."""
    found: list[SessionResult] = []
    for number, document in enumerate(_documents(file, text), start=1):
        held = document.get("sessions") if isinstance(document, dict) else None
        for place, session in enumerate(held if isinstance(held, list) else [document]):
            where = "" if held is None else f"sessions[{place}]."
            which = "" if number == 1 else f" (result {number})"
            found.append(_session(f"{file}{which}", where, session))
    if not found:
        raise ConfigError(f"{file}: there is no session in it")
    _one_of(file, "scenario", [each.scenario for each in found])
    _one_of(file, "target", [each.target for each in found])
    return sorted(found, key=lambda each: each.started_time)


def check_same_scenario(files: Mapping[str, Sequence[SessionResult]]) -> None:
    """Raises `ConfigError` where two files are of different scenarios."""
    (first, sessions), *others = files.items()
    for file, theirs in others:
        if theirs[0].scenario != sessions[0].scenario:
            raise ConfigError(
                f'{file}: scenario is "{theirs[0].scenario}", but {first} has '
                f'"{sessions[0].scenario}": only sessions of one scenario can be compared'
            )


def _documents(file: str, text: str) -> list[Any]:
    decoder, documents, at = json.JSONDecoder(), [], 0
    text = text.strip()
    while at < len(text):
        try:
            document, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{file}: no JSON: {error}") from error
        except RecursionError as error:
            raise ConfigError(f"{file}: no JSON of ours: it is nested too deeply") from error
        documents.append(document)
        while at < len(text) and text[at].isspace():
            at += 1
    return documents


@cache
def _shape() -> TypeAdapter[_Session]:
    return TypeAdapter(_Session)


def _session(file: str, where: str, document: Any) -> SessionResult:
    if not isinstance(document, dict) or "turns" not in document:
        raise ConfigError(
            f"{file}: {where}turns is missing: this is not what `probe --json` writes"
        )
    try:
        told = _shape().validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
        )
        raise ConfigError(f"{file}: {where}{field.lstrip('.')}: {first['msg']}") from error
    if told.get("interrupted"):
        raise ConfigError(f"{file}: {where}interrupted is true: only whole sessions are compared")
    return _result(told)


def _result(told: _Session) -> SessionResult:
    failure = told["failure"]
    return SessionResult(
        target=told["target"],
        scenario=told["scenario"],
        simulated=told["simulated"],
        model=told["model"],
        engine_version=told["engine_version"],
        started_time=told["started"].timestamp(),
        duration_seconds=told["duration_seconds"],
        turns=tuple(_turn(turn) for turn in told["turns"]),
        failure=None
        if failure is None
        else Failure(FailureReason(failure["reason"]), failure["detail"]),
        failed_turn=None if failure is None else failure["turn"],
        notices=frozenset(Notice(each) for each in told.get("notices", ()) if each in set(Notice)),
    )


def _turn(turn: _Turn) -> TurnFacts:
    prompt, ideal = turn["prompt_tokens"], turn.get("ideal_cached_tokens")
    cold, loss = turn.get("cold_ttft_seconds"), turn.get("loss")
    return TurnFacts(
        index=turn["turn"],
        prompt_tokens=prompt,
        completion_tokens=turn.get("completion_tokens"),
        cached_tokens=turn["cached_tokens"],
        hit_ratio=turn["hit_ratio"],
        tokens_saved=turn["cached_tokens"],
        ideal_cached_tokens=ideal,
        ideal_hit_ratio=None if ideal is None or not prompt else ideal / prompt,
        efficiency_ratio=turn.get("efficiency_ratio"),
        ttft_seconds=turn["ttft_seconds"],
        latency_seconds=turn["latency_seconds"],
        loss=None if loss is None else Loss(loss["tokens"], loss["cause"], loss["evidence"]),
        # Only a cold control has a time in the file, and it was of the same prompt.
        control=None if cold is None else Control(ControlOutcome.COLD, False, prompt, None, cold),
    )


def _one_of(file: str, field: str, values: list[str]) -> None:
    other = next((value for value in values if value != values[0]), None)
    if other is not None:
        raise ConfigError(
            f'{file}: {field} is "{values[0]}" in one session and "{other}" in another'
        )
