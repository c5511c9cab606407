"""Reads the web configuration again when it or a certificate that it names was replaced."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from exporter.errors import ConfigError
from exporter.loops import Guarded
from exporter.web.access.configuration import read_web_config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from exporter.clock import Clock
    from exporter.web.access.configuration import WebConfig

log = structlog.stdlib.get_logger(__name__)

INTERVAL_SECONDS = 5.0  # a certificate is renewed weeks before it ends; a user may wait this long
Print = tuple[tuple[int, ...] | None, ...]


class WebConfigWatch:
    """Looks at the files every few seconds and hands on what they say when they have changed.

    A file with a mistake changes nothing: what was in force stays, and the log says why. `looked`
    is told of every look, and whether what the files say now is in force; `failed` of a look that
    ended in a mistake of ours.
    """

    def __init__(
        self,
        config: WebConfig,
        clock: Clock,
        apply: Callable[[WebConfig], Awaitable[None]],
        looked: Callable[[bool], None],
        failed: Callable[[], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._apply = apply
        self._looked = looked
        self._failed = failed
        self._seen = fingerprint(config.files)
        self._told = ""  # why the files are not in force

    @property
    def config(self) -> WebConfig:
        """What is in force."""
        return self._config

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            with Guarded("web_config.crashed", self._failed, log):
                await self.look()
            await self._clock.sleep(INTERVAL_SECONDS)

    async def look(self) -> None:
        """One look. The disk is read beside the event loop: it can be a slow one."""
        seen = await asyncio.to_thread(fingerprint, self._config.files)
        if seen != self._seen and await self._read():
            self._seen = seen  # as it was before the reading: a later change is seen again
        self._looked(not self._told)

    async def _read(self) -> bool:
        """Whether all is done that can be done about the files as they are now."""
        try:
            config = await asyncio.to_thread(read_web_config, self._config.file)
            keep_what_protects(self._config, config)
            await self._apply(config)
        except ConfigError as error:
            self._refuse(str(error))
            return True
        except OSError as error:  # no descriptor is left, or the like: that passes
            self._refuse(error.strerror or type(error).__name__)
            return False
        self._config, self._told = config, ""
        log.info("web_config.read", file=str(config.file), users=len(config.users))
        return True

    def _refuse(self, why: str) -> None:
        if why != self._told:
            log.error("web_config.refused", error=why, consequence="the old one stays")
        self._told = why


def fingerprint(files: Iterable[Path]) -> Print:
    """Changes when one of the files does, also when a link comes to lead elsewhere."""
    return tuple(_state(file) for file in files)


def _state(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    # The last is for rights that were mended.
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


def keep_what_protects(old: WebConfig | None, new: WebConfig) -> None:
    """Raise `ConfigError` where `new` would open what `old` closed, or turn TLS on or off.

    A file may be seen half written, and clients would not follow anyway.
    """
    if (old is None or old.tls is None) != (new.tls is None):
        raise ConfigError(f"{new.file}: TLS is turned on or off by a restart only")
    if old is not None and old.users and not new.users:
        raise ConfigError(f"{new.file}: basic_auth_users can be emptied by a restart only")
