"""Reading the configuration again while the daemon runs: one at a time, all or nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from exporter.errors import ConfigError, ExporterError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exporter.clock import Clock
    from exporter.config import Settings
    from exporter.metrics.sink import Metrics

log = structlog.get_logger(__name__)

_LEFT = "the configuration in force stays"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a reload: an HTTP status, and words for whoever asked."""

    status: int
    text: str


ENDING = Outcome(503, "the exporter is being stopped; nothing is read again\n")


class Reloader:
    """Carries out what `ask` asks for. Those who ask before a reading begins share that one.

    `act` reads and applies, and says in words what changed. It raises `ExporterError` where the
    new configuration cannot be in force; then it has changed nothing.
    """

    def __init__(self, act: Callable[[], Awaitable[str]], metrics: Metrics, clock: Clock) -> None:
        self._act = act
        self._metrics = metrics
        self._clock = clock
        self._asking: list[asyncio.Future[Outcome]] = []
        self._asked = asyncio.Event()
        self._ended = False

    def ask(self) -> asyncio.Future[Outcome]:
        """Read again soon; the future is done when that is over."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if self._ended:
            answer.set_result(ENDING)
        else:
            self._asking.append(answer)
            self._asked.set()
        return answer

    async def run(self) -> None:
        """Do what is asked until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            asking, self._asking = self._asking, []
            try:
                _tell(asking, await self._once())
            except asyncio.CancelledError:
                _tell(asking, ENDING)
                raise

    def end(self) -> None:
        """The daemon ends: refuse from here on."""
        self._ended = True
        _tell(self._asking, ENDING)

    async def _once(self) -> Outcome:
        try:
            changed = await self._act()
        except ExporterError as error:
            log.error(  # noqa: TRY400 - somebody's mistake, with words; a trace says nothing more
                "config.reload_refused", error=str(error), consequence=_LEFT
            )
            status = 400 if isinstance(error, ConfigError) else 500
            outcome = Outcome(status, f"{error}\n{_LEFT}\n")
        except Exception:
            log.exception("config.reload_failed", consequence=_LEFT)
            outcome = Outcome(500, f"an error of the exporter's own, see its log; {_LEFT}\n")
        else:
            log.info("config.reloaded", changed=changed)
            self._metrics.config_reloaded(self._clock.time())
            return Outcome(200, f"the configuration was read again: {changed}\n")
        self._metrics.config_refused()
        return outcome


def _tell(asking: list[asyncio.Future[Outcome]], outcome: Outcome) -> None:
    for answer in asking:
        if not answer.done():  # whoever asked may have gone
            answer.set_result(outcome)


def refuse_what_needs_a_restart(old: Settings, new: Settings) -> None:
    """Raise `ConfigError` with the name of each setting that differs and cannot change.

    To apply the rest would leave a daemon that is neither as the file says nor as it was.
    """
    changed = {
        "instance": old.instance != new.instance,
        "listen": old.listen != new.listen,
        "page.grafana_url": old.page != new.page,
        "shutdown.grace_seconds": old.shutdown != new.shutdown,
        "metrics.http_sd_address": old.metrics.http_sd_address != new.metrics.http_sd_address,
        "web_reload_enabled": old.web_reload_enabled != new.web_reload_enabled,
    }
    names = [name for name, differs in changed.items() if differs]
    if names:
        raise ConfigError("\n".join(f"{name}: can be changed by a restart only" for name in names))
