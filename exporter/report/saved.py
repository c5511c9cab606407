"""Sessions read back from what `probe --json` wrote, or from /api/v1/sessions. Pure.

A file may hold several, one after another, as from a loop that appends to it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from exporter.errors import ConfigError
from exporter.wording.session_json import session_adapter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.model.session import SessionResult

_MOST_TURNS = 100_000
"""A comparison lists every turn up to the highest number, so a wrong number could fill memory."""


def read_sessions(file: str, text: str) -> list[SessionResult]:
    """The sessions in a file, oldest first. Raises `ConfigError` with file and field."""
    found: list[SessionResult] = []
    for number, document in enumerate(_documents(file, text), start=1):
        several = document.get("sessions") if isinstance(document, dict) else None
        for place, session in enumerate(several if isinstance(several, list) else [document]):
            where = "" if several is None else f"sessions[{place}]."
            which = "" if number == 1 else f" (result {number})"
            found.append(_session(f"{file}{which}", where, session))
    if not found:
        raise ConfigError(f"{file}: the file has no session")
    _one_of(file, "scenario", [each.scenario for each in found])
    _one_of(file, "target", [each.target for each in found])
    return sorted(found, key=lambda each: each.started_time)


def check_same_scenario(files: Mapping[str, Sequence[SessionResult]]) -> None:
    """Raises `ConfigError` if two files have different scenarios."""
    (first, sessions), *others = files.items()
    for file, theirs in others:
        if theirs[0].scenario != sessions[0].scenario:
            raise ConfigError(
                f'{file}: scenario is "{theirs[0].scenario}", but {first} has '
                f'"{sessions[0].scenario}": only sessions of the same scenario can be compared'
            )


def _documents(file: str, text: str) -> list[Any]:
    decoder, documents, at = json.JSONDecoder(), [], 0
    text = text.strip()
    while at < len(text):
        try:
            document, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{file}: not JSON: {error}") from error
        except RecursionError as error:
            raise ConfigError(
                f"{file}: not a saved result: the JSON is nested too deeply"
            ) from error
        documents.append(document)
        while at < len(text) and text[at].isspace():
            at += 1
    return documents


def _session(file: str, where: str, document: Any) -> SessionResult:
    if not isinstance(document, dict) or "turns" not in document:
        raise ConfigError(
            f"{file}: {where}turns is missing: this is not what `probe --json` writes"
        )
    if document.get("interrupted"):
        raise ConfigError(
            f"{file}: {where}interrupted is true: only complete sessions can be compared"
        )
    try:
        session = session_adapter().validate_json(
            json.dumps(_without_old_efficiency(document)), strict=True
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]
        )
        raise ConfigError(f"{file}: {where}{field.lstrip('.')}: {first['msg']}") from error
    if any(turn.index > _MOST_TURNS for turn in session.turns):
        raise ConfigError(f"{file}: {where}turns: a turn has a number above {_MOST_TURNS:,}")
    return session


def _without_old_efficiency(document: dict[str, Any]) -> dict[str, Any]:
    """In a result from before reuse rules were known, efficiency is cached / ideal, and losses are
    against the ideal. By the rule of its engine both can be others, and the file does not tell that
    rule. So they are unknown, not wrong.
    """
    turns, unknown = document["turns"], {"efficiency_ratio": None, "loss": None}
    if not isinstance(turns, list):
        return document
    told = [
        turn | unknown
        if isinstance(turn, dict) and "attainable_cached_tokens" not in turn
        else turn
        for turn in turns
    ]
    return document | {"turns": told}


def _one_of(file: str, field: str, values: list[str]) -> None:
    other = next((value for value in values if value != values[0]), None)
    if other is not None:
        raise ConfigError(
            f'{file}: {field} is "{values[0]}" in one session and "{other}" in another'
        )
