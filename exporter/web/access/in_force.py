"""The TLS and the passwords before the pages, while the daemon runs: read again, never dropped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from exporter.errors import ConfigError, ExporterError
from exporter.loops import LoopHeartbeat
from exporter.web.access.configuration import read_web_config
from exporter.web.access.watch import WebConfigWatch, keep_what_protects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from exporter.clock import Clock
    from exporter.loops import Spawn
    from exporter.metrics.sink import Metrics
    from exporter.web.access.configuration import WebConfig

log = structlog.get_logger(__name__)

_LOOP = "web_config"


def read(file: Path | None) -> WebConfig | None:
    """The web configuration in `file`. Raises `ConfigError` with its mistakes."""
    if file is None:
        return None
    config = read_web_config(file)
    if config.http2:
        log.info("web_config.http2_ignored", reason="this server speaks HTTP/1.1 only")
    return config


class WebAccess:
    """Watches the file in force, and changes to another one."""

    def __init__(
        self, config: WebConfig | None, *, clock: Clock, spawn: Spawn, metrics: Metrics
    ) -> None:
        self._first = config
        self._clock = clock
        self._spawn = spawn
        self._metrics = metrics
        self._apply: Callable[[WebConfig], Awaitable[None]] | None = None
        self._watch: WebConfigWatch | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def config(self) -> WebConfig | None:
        """What is in force."""
        return self._first if self._watch is None else self._watch.config

    def start(self, apply: Callable[[WebConfig], Awaitable[None]]) -> None:
        """Watch the file, if there is one. `apply` puts a new configuration into force."""
        self._apply = apply
        if self._first is not None:
            self._begin(self._first)

    def tasks(self) -> list[asyncio.Task[None]]:
        """The watch that runs."""
        return [] if self._task is None else [self._task]

    async def check(self, file: Path | None) -> Callable[[], Awaitable[None]]:
        """Read the file that is to be in force, and return what puts it in force.

        A file that is in force already is left to its watch. Raises `ConfigError` where it has
        mistakes or would take away what protects the pages; what is returned raises `ExporterError`
        where the system will not have it.
        """
        now = self.config
        if file == (None if now is None else now.file):
            return _nothing
        if file is None:
            raise ConfigError("web_config_file: can be taken away by a restart only")
        new = await asyncio.to_thread(read, file)
        if new is None:
            raise AssertionError(file)
        keep_what_protects(now, new)
        return lambda: self._put(new)

    async def _put(self, config: WebConfig) -> None:
        if self._apply is None:
            raise AssertionError("not started")
        before = self.config
        if self._task is not None:  # or it could put the file of before in force again
            self._task.cancel()
            await asyncio.wait({self._task})
        try:
            await self._apply(config)
        except OSError as error:
            if before is not None:
                self._begin(before)
            raise ExporterError(
                f"web_config_file: {error.strerror or type(error).__name__}"
            ) from error
        self._begin(config)

    def _begin(self, config: WebConfig) -> None:
        if self._apply is None:
            raise AssertionError("not started")
        metrics, clock = self._metrics, self._clock

        def looked(in_force: bool) -> None:
            metrics.web_config_looked_at(in_force=in_force)
            metrics.loop_ran(_LOOP, clock.time())

        def failed() -> None:
            metrics.loop_failed(_LOOP)

        self._watch = WebConfigWatch(config, clock, self._apply, looked, failed)
        self._task = self._spawn(
            LoopHeartbeat(_LOOP, metrics.exporter.loops, clock), self._watch.run
        )


async def _nothing() -> None:
    """The file is in force already."""
