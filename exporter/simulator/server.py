"""A simulated vLLM that listens: start, stop, crash and restart of one server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import structlog
from aiohttp import web

from exporter.clock import SystemClock
from exporter.simulator.engine import Engine
from exporter.simulator.engine_kinds.settings import SimulatorSettings
from exporter.simulator.faults import faults
from exporter.simulator.routes import Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from exporter.clock import Clock
    from exporter.simulator.faults.fault_fields import Fault

__all__ = ["Simulator", "SimulatorSettings"]

_log = structlog.get_logger("exporter.simulator")
_SHUTDOWN_SECONDS = 2.0  # for streams to end with "abort"; they need one turn of the loop
_BIND_AGAIN_SECONDS = 0.5


class Simulator:
    """One server. Use it as an async context manager, or call `start` and `stop`.

    `on_exit` is called with an exit code when a crash should end the whole process. Without it
    that fault is refused, because the simulator can share its process with other code.
    """

    def __init__(
        self,
        settings: SimulatorSettings,
        *,
        clock: Clock | None = None,
        on_exit: Callable[[int], None] | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._on_exit = on_exit
        self.engine = Engine(settings, self._clock)
        self._port = settings.port
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._act: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The actual port, also with port 0 in the settings."""
        return self._port

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(  # noqa: S104 - compared, not bound
            self.settings.host, self.settings.host
        )
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Bind and serve. Raises OSError if the port is taken."""
        app = Routes(self.engine, self).application()
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await self._runner.setup()
        try:
            await self._listen()
        except OSError:
            await self._runner.cleanup()
            raise
        self.engine.start()
        _log.info("simulator.started", url=self.url, model=self.settings.model, simulated=True)

    async def stop(self) -> None:
        """Stop like vLLM at SIGTERM: refuse requests, end streams with "abort", exit."""
        if self._act is not None:
            self._act.cancel()
            await asyncio.gather(self._act, return_exceptions=True)
        await self._refuse()
        self.engine.abort_all()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self.engine.stop()
        self.engine.close()
        _log.info("simulator.stopped", url=self.url)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def inject(self, fault: Fault) -> None:
        """Activate a fault. A crash or restart happens once.

        Raises FaultInputError for a crash that this simulator cannot do.
        """
        self.check(fault)
        if isinstance(fault, faults.Crash):
            self._do(self._crash(fault), "simulator.crash")
        elif isinstance(fault, faults.Restart):
            self._do(self._down(fault.down_seconds), "simulator.restart")
        else:
            self.engine.inject(fault)
        _log.info("simulator.fault", **faults.described(fault))

    def check(self, fault: Fault) -> None:
        """Raise FaultInputError for a crash that would end a shared process."""
        if isinstance(fault, faults.Crash) and fault.mode == "exit" and self._on_exit is None:
            mistake = faults.Mistake(
                "mode", "exit", '"refuse" here: this simulator shares its process with other code'
            )
            raise faults.FaultInputError([mistake])

    def clear(self, kind: type[Fault] | None = None) -> None:
        """Clear one kind of fault, or all."""
        self.engine.clear(kind)

    async def recover(self) -> None:
        """Start as a new process after a crash without `down_seconds`."""
        await self._settle()
        if self._site is None:
            await self.engine.restart()
            await self._listen()

    async def _crash(self, fault: faults.Crash) -> None:
        if fault.mode == "exit" and self._on_exit is not None:
            await self._refuse()
            self._on_exit(fault.exit_code)
        elif fault.down_seconds is None:
            await self._refuse()
            self._cut_connections()
            await self.engine.stop()
        else:
            await self._down(fault.down_seconds)

    async def _down(self, seconds: float) -> None:
        """Close the port for a while, then start as a new process on it."""
        await self._refuse()
        self._cut_connections()
        await self.engine.stop()
        await self._clock.sleep(seconds)
        await self.engine.restart()
        while True:
            try:
                await self._listen()
            except OSError as exc:  # another program took the port
                _log.warning("simulator.port_taken", port=self._port, error=str(exc))
                await self._clock.sleep(_BIND_AGAIN_SECONDS)
            else:
                return

    def _do(self, act: Coroutine[None, None, None], name: str) -> None:
        """Run one act at a time. A new act replaces a waiting one."""
        if self._act is not None:
            self._act.cancel()
        self._act = asyncio.create_task(act, name=name)
        self._act.add_done_callback(_report_death)

    async def _settle(self) -> None:
        """Wait until a running crash or restart is over."""
        if self._act is not None:
            await asyncio.gather(self._act, return_exceptions=True)

    async def _listen(self) -> None:
        if self._runner is None:
            raise RuntimeError("the simulator has not been started")
        site = web.TCPSite(self._runner, self.settings.host, self._port)
        await site.start()
        self._site = site
        self._port = self._runner.addresses[0][1]

    async def _refuse(self) -> None:
        if self._site is not None:
            await self._site.stop()
            self._site = None

    def _cut_connections(self) -> None:
        server = self._runner.server if self._runner is not None else None
        for connection in list(server.connections) if server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("simulator.act_failed", task=task.get_name(), exc_info=error)
