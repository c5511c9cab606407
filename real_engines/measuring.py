"""Measures one engine as users do: the daemon plays sessions, then `check` runs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from real_engines import programs
from real_engines.counters import EnginePage, engine_page, exporter_counters
from real_engines.wire import told_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SESSIONS = 3
_INTERVAL_SECONDS = 20
_TARGET = "engine"
_SCRAPE_SECONDS = 1
_QUIET_TRIES = 60
_SESSION_SECONDS = 900.0  # for all sessions; a tiny model on a busy CPU takes minutes
_CONFIG = """\
listen = "127.0.0.1:{port}"

[probe]
interval_seconds = {interval}
jitter_ratio = 0
tokens_per_hour = 0
retention_gaps_seconds = [1]

[scrape]
interval_seconds = {scrape}
timeout_seconds = {scrape}

[[targets]]
name = "{name}"
url = "{url}"
{model}
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one engine showed. `exporter` and `engine` are counters of the same moment.

    `told` are the cached tokens in usage (wire.py).
    """

    told: Mapping[str, int | None]
    sessions: Sequence[Mapping[str, Any]]
    check_code: int
    check: Mapping[str, Any]
    engine: EnginePage
    exporter: Mapping[str, float | None]


def measure(url: str, folder: Path, model: str | None = None, sessions: int = SESSIONS) -> Measured:
    """Play sessions and run `check`; logs go to `folder`."""
    told = told_tokens(url, model)
    port = programs.free_port()
    config = folder / "exporter.toml"
    config.write_text(
        _CONFIG.format(
            port=port,
            interval=_INTERVAL_SECONDS,
            scrape=_SCRAPE_SECONDS,
            name=_TARGET,
            url=url,
            model="" if model is None else f'model = "{model}"',
        ),
        "utf-8",
    )
    base = f"http://127.0.0.1:{port}"
    command = [*programs.EXPORTER, "run", "--config", str(config)]
    with programs.running(command, folder / "exporter.log") as runs:

        def played() -> bool:
            if not runs():
                raise programs.EngineError(f"the exporter ended; see {folder / 'exporter.log'}")
            return programs.answers(f"{base}/-/ready") and len(_sessions(base)) >= sessions

        programs.wait_until(played, _SESSION_SECONDS, "the sessions")
        engine, exporter = _at_rest(url, base)
        finished = _sessions(base)[:sessions]
    chosen = [] if model is None else ["--model", model]
    code, report = programs.command_json("check", "--url", url, "--json", *chosen)
    return Measured(told, finished, code, report, engine, exporter)


def _sessions(base: str) -> list[Mapping[str, Any]]:
    """The finished sessions, the oldest first."""
    sessions: list[Mapping[str, Any]] = json.loads(programs.read(f"{base}/api/v1/sessions"))[
        "sessions"
    ]
    return sorted(sessions, key=lambda session: str(session["started"]))


def _at_rest(url: str, base: str) -> tuple[EnginePage, dict[str, float | None]]:
    """Both pages while no request runs: the engine's is the same before and after the exporter's.

    Raises `EngineError` if the engine never rests.
    """
    for _ in range(_QUIET_TRIES):
        before = engine_page(programs.read(f"{url}/metrics"))
        time.sleep(2.5 * _SCRAPE_SECONDS)  # the exporter has scraped again
        exporter = exporter_counters(programs.read(f"{base}/metrics"))
        if engine_page(programs.read(f"{url}/metrics")).counters == before.counters:
            return before, exporter
    raise programs.EngineError("the engine's counters never stood still")
