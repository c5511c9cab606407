"""Measures one engine as users do: the daemon plays sessions, then `check` runs."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from real_engines import programs
from real_engines.counters import EnginePage, engine_page, exporter_counters
from real_engines.wire import told_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SESSIONS = 3
_OFTEN_SECONDS = 5.0
_ONCE_SECONDS = 86400.0
_SCRAPE_SECONDS = 2  # also the limit of a scrape; a busy engine takes a second
_READY_SECONDS = 60.0
_REST_SECONDS = 300.0
_SESSION_SECONDS = 900.0  # for all sessions; a tiny model on a busy CPU takes minutes
_CONFIG = """\
listen = "127.0.0.1:{port}"

[probe]
interval_seconds = {interval}
jitter_ratio = 0
tokens_per_hour = 0
max_cache_turnover_per_hour = 0
heartbeat_interval_seconds = 0
retention_gaps_seconds = [1]

[scrape]
interval_seconds = {scrape}
timeout_seconds = {scrape}

[[targets]]
name = "engine"
url = "{url}"
{more}
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


def measure(
    url: str, folder: Path, target: Mapping[str, str] | None = None, sessions: int = SESSIONS
) -> Measured:
    """Compare the counters, play sessions and run `check`; logs go to `folder`. `target` are more
    settings of the exporter's target.

    The counters are compared after a daemon has played one session and plays no more. That comes
    first: a request that is cancelled when a daemon stops counts as a lookup, but not as a prompt.
    """
    target = target or {}
    told = told_tokens(url, target.get("model"))
    with _daemon(url, folder, target, _ONCE_SECONDS) as base:
        _first_sessions(base, 1)
        own, published = _at_rest(url, base)
    with _daemon(url, folder, target, _OFTEN_SECONDS) as base:
        played = _first_sessions(base, sessions)
    chosen = [f"--{name.replace('_', '-')}={value}" for name, value in target.items()]
    code, report = programs.command_json("check", "--url", url, "--json", *chosen)
    return Measured(told, played, code, report, own, published)


@contextmanager
def _daemon(url: str, folder: Path, target: Mapping[str, str], interval: float) -> Iterator[str]:
    """The URL of a daemon that plays a session every `interval` seconds, the first one at once."""
    port = programs.free_port()
    base = f"http://127.0.0.1:{port}"
    config, log = folder / "exporter.toml", folder / "exporter.log"
    chosen = "\n".join(f'{name} = "{value}"' for name, value in target.items())
    text = _CONFIG.format(
        port=port, interval=interval, scrape=_SCRAPE_SECONDS, url=url, more=chosen
    )
    config.write_text(text, "utf-8")
    with programs.running([*programs.EXPORTER, "run", "--config", str(config)], log) as exporter:

        def ready() -> bool:
            if exporter.poll() is not None:
                raise programs.EngineError(f"the exporter ended; see {log}")
            return programs.answers(f"{base}/-/ready")

        programs.wait_until(ready, _READY_SECONDS, "the exporter")
        yield base


def _first_sessions(base: str, count: int) -> list[Mapping[str, Any]]:
    """The first sessions, once so many have ended."""

    def ended() -> list[Mapping[str, Any]]:
        answer = json.loads(programs.read(f"{base}/api/v1/sessions"))
        return sorted(answer["sessions"], key=lambda session: str(session["started"]))

    programs.wait_until(lambda: len(ended()) >= count, _SESSION_SECONDS, "the sessions")
    return ended()[:count]


def _at_rest(url: str, base: str) -> tuple[EnginePage, dict[str, float | None]]:
    """Both pages while no request runs: the engine's is the same before and after the exporter's.

    Raises `EngineError` if the engine never rests.
    """
    deadline = time.monotonic() + _REST_SECONDS
    while time.monotonic() < deadline:
        before = engine_page(programs.read(f"{url}/metrics"))
        time.sleep(2.5 * _SCRAPE_SECONDS)  # the exporter has scraped again
        exporter = exporter_counters(programs.read(f"{base}/metrics"))
        if engine_page(programs.read(f"{url}/metrics")).counters == before.counters:
            return before, exporter
    raise programs.EngineError("the engine's counters never stood still")
