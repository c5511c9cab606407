"""Reloads the configuration of a running daemon: one reload at a time, all or nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from exporter.errors import ConfigError, ExporterError
from exporter.web.reload_route import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exporter.clock import Clock
    from exporter.config import Settings
    from exporter.metrics.state.exporter import Reloads

log = structlog.get_logger(__name__)

_KEPT = "the old configuration stays in force"


ENDING = Outcome(503, "the exporter is stopping, so it does not reload\n")


class Reloader:
    """Runs the reloads that `ask` requests. Requests before a reload starts share that reload.

    `act` reads and applies the configuration and returns what changed, in words. It raises
    `ExporterError` if the new configuration cannot be used; then nothing has changed.
    """

    def __init__(self, act: Callable[[], Awaitable[str]], state: Reloads, clock: Clock) -> None:
        self._act = act
        self._state = state
        self._clock = clock
        self._asking: list[asyncio.Future[Outcome]] = []
        self._asked = asyncio.Event()
        self._ended = False

    def ask(self) -> asyncio.Future[Outcome]:
        """Request a reload. The future holds its outcome."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if self._ended:
            answer.set_result(ENDING)
        else:
            self._asking.append(answer)
            self._asked.set()
        return answer

    async def run(self) -> None:
        """Run requested reloads until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            asking, self._asking = self._asking, []
            try:
                _resolve(asking, await self._once())
            except asyncio.CancelledError:
                _resolve(asking, ENDING)
                raise

    def end(self) -> None:
        """Refuse requests from now on, because the daemon stops."""
        self._ended = True
        _resolve(self._asking, ENDING)

    async def _once(self) -> Outcome:
        try:
            changed = await self._act()
        except ExporterError as error:
            log.error(  # noqa: TRY400 - a mistake in the configuration; a trace adds nothing
                "config.reload_refused", error=_one_line(error), consequence=_KEPT
            )
            status = 400 if isinstance(error, ConfigError) else 500
            outcome = Outcome(status, f"{error}\n{_KEPT}\n")
        except Exception:
            log.exception("config.reload_failed", consequence=_KEPT)
            outcome = Outcome(500, f"unexpected error, see the log of the exporter; {_KEPT}\n")
        else:
            log.info("config.reloaded", changed=changed)
            self._state.succeeded(self._clock.time())
            return Outcome(200, f"configuration reloaded: {changed}\n")
        self._state.failed()
        return outcome


def _one_line(error: ExporterError) -> str:
    """The error for the log, where a line break would be an escape in quotes."""
    first, *mistakes = str(error).splitlines()
    return " ".join([first, "; ".join(each.strip() for each in mistakes)]).strip()


def _resolve(asking: list[asyncio.Future[Outcome]], outcome: Outcome) -> None:
    for answer in asking:
        if not answer.done():  # the client may have disconnected
            answer.set_result(outcome)


def refuse_what_needs_a_restart(old: Settings, new: Settings) -> None:
    """Raise `ConfigError` with each changed setting that needs a restart.

    Applying only the others would leave a daemon that matches neither the old file nor the new one.
    """
    changed = {
        "instance": old.instance != new.instance,
        "listen": old.listen != new.listen,
        "page.grafana_url": old.page != new.page,
        "reuse_rules_file": old.reuse_rules_file != new.reuse_rules_file,
        "otlp": old.otlp != new.otlp,
        "shutdown.grace_seconds": old.shutdown != new.shutdown,
        "metrics.http_sd_address": old.metrics.http_sd_address != new.metrics.http_sd_address,
        "web_probe_enabled": old.web_probe_enabled != new.web_probe_enabled,
        "web_reload_enabled": old.web_reload_enabled != new.web_reload_enabled,
    }
    names = [name for name, differs in changed.items() if differs]
    if names:
        raise ConfigError("\n".join(f"{name}: needs a restart to change" for name in names))
