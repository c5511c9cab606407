"""The TLS, passwords and headers in force, read again while the daemon runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from exporter.errors import ConfigError, ExporterError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from exporter.loops import LoopHeartbeat, Spawn
    from exporter.web.access.configuration import WebConfig

log = structlog.stdlib.get_logger(__name__)

INTERVAL_SECONDS = 5.0  # a certificate is renewed weeks before it ends; a user may wait this long


def read(file: Path) -> WebConfig:
    """The web configuration in `file`. Raises `ConfigError` with its mistakes."""
    config = _load(file)
    if config.http2:
        log.info("web_config.http2_ignored", reason="this server speaks HTTP/1.1 only")
    return config


def _load(file: Path) -> WebConfig:
    # YAML and the types of the file take 2 MB.
    from exporter.web.access.configuration import (  # noqa: PLC0415 - most daemons have no file
        read_web_config,
    )

    return read_web_config(file)


class WebConfigSink(Protocol):
    """Gets the state of the web configuration. The metrics implement it."""

    def web_config_checked(self, *, in_force: bool) -> None:
        """The files were looked at. `in_force`: what they say now is in force."""


class WebAccess:
    """Reads the files of the web configuration when they change, and `apply`s what they say.

    A file with a mistake changes nothing: the configuration in force stays in `config`, and the log
    says why.
    """

    def __init__(
        self,
        config: WebConfig | None,
        apply: Callable[[WebConfig], Awaitable[None]],
        *,
        heartbeat: LoopHeartbeat,
        spawn: Spawn,
        sink: WebConfigSink,
    ) -> None:
        self.config = config
        self._apply = apply
        self._heartbeat = heartbeat
        self._spawn = spawn
        self._sink = sink
        self._task: asyncio.Task[None] | None = None
        self._seen = fingerprint(() if config is None else config.files)
        self._refused = ""  # why the files are not in force

    def start(self) -> None:
        """Watch the files, if there are any."""
        if self.config is not None:
            self._task = self._spawn(self._heartbeat, self._run)

    def tasks(self) -> list[asyncio.Task[None]]:
        """The loop that watches the files, if there are any."""
        return [] if self._task is None else [self._task]

    async def check(self, file: Path | None) -> Callable[[], Awaitable[None]]:
        """Read another file and return what puts it into force; the file in force is not read.

        Raises `ConfigError` where the file has mistakes or would remove what protects the pages.
        The returned function raises `ExporterError` where the system refuses, and then the
        configuration of before stays.
        """
        old = self.config
        if file == (None if old is None else old.file):
            return _nothing
        if file is None:
            raise ConfigError("web_config_file: only a restart can remove it")
        new = await asyncio.to_thread(read, file)
        keep_what_protects(old, new)
        return lambda: self._replace(new)

    async def _replace(self, new: WebConfig) -> None:
        if self._task is not None:  # it could be about to apply the old file
            self._task.cancel()
            await asyncio.wait({self._task})
        try:
            await self._apply(new)
        except OSError as error:
            self.start()
            raise ExporterError(f"web_config_file: {_reason(error)}") from error
        self.config, self._seen, self._refused = new, fingerprint(new.files), ""
        self.start()

    async def _run(self) -> None:
        while True:
            await self.look()
            await self._heartbeat.clock.sleep(INTERVAL_SECONDS)

    async def look(self) -> None:
        """Read the files if they have changed. A thread reads them, because a disk can be slow."""
        if self.config is None:
            return
        seen = await asyncio.to_thread(fingerprint, self.config.files)
        if seen != self._seen and await self._read(self.config):
            self._seen = seen  # of before the reading, so that a later change is seen too
        self._sink.web_config_checked(in_force=not self._refused)
        self._heartbeat.ran()

    async def _read(self, old: WebConfig) -> bool:
        """Apply the files. False where the system refused: the next look tries again."""
        try:
            new = await asyncio.to_thread(_load, old.file)
            keep_what_protects(old, new)
            await self._apply(new)
        except ConfigError as error:
            self._refuse(str(error))
            return True
        except OSError as error:  # for example no free file descriptor
            self._refuse(_reason(error))
            return False
        self.config, self._refused = new, ""
        log.info("web_config.read", file=str(new.file), users=len(new.users))
        return True

    def _refuse(self, why: str) -> None:
        if why != self._refused:
            log.error("web_config.refused", error=why, consequence="the old one stays in force")
        self._refused = why


async def _nothing() -> None:
    """The file is in force already."""


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def fingerprint(files: Iterable[Path]) -> tuple[tuple[int, ...] | None, ...]:
    """Differs when a file has changed, or when a link leads to another file."""
    return tuple(_state(file) for file in files)


def _state(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    # The last one changes with the file's permissions.
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


def keep_what_protects(old: WebConfig | None, new: WebConfig) -> None:
    """Raise `ConfigError` where `new` removes the last password, or turns TLS on or off.

    A half-written file must not open the pages, and clients would not follow a change of TLS.
    """
    if (old is None or old.tls is None) != (new.tls is None):
        raise ConfigError(f"{new.file}: only a restart can turn TLS on or off")
    if old is not None and old.users and not new.users:
        raise ConfigError(f"{new.file}: only a restart can remove all of basic_auth_users")
    if old is not None and old.authenticates and not new.authenticates:
        raise ConfigError(f"{new.file}: only a restart can stop requiring client certificates")


def require_authentication(setting: str, config: WebConfig | None) -> None:
    """Raise `ConfigError` where a client needs neither a password nor a certificate."""
    if config is None or not config.authenticates:
        file = "a web_config_file" if config is None else str(config.file)
        raise ConfigError(
            f"{setting}: needs authentication: set basic_auth_users, or client_auth_type = "
            f'"RequireAndVerifyClientCert", in {file}'
        )
