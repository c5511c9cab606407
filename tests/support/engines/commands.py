"""Runs a command in the process of the tests, beside simulated engines in a thread.

That saves the start of a process for each command. A command has an event loop of its own, so the
engines need another thread, and the tests that use this are no coroutines.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

from exporter.cli.main import main
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from exporter.clock import Clock

PATIENCE = 500.0  # seconds; a bound for what takes a few
AT_ONCE = SimulatorSettings(port=0, time_scale=0.0)
"""An engine that answers at once."""


class LoopThread:
    """An event loop in a thread: servers that live on while a command has a loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


@contextlib.contextmanager
def simulated_engine(
    loop: LoopThread, settings: SimulatorSettings, clock: Clock | None = None
) -> Iterator[Simulator]:
    """A simulated engine in the thread of `loop`."""
    simulator = Simulator(settings, clock=clock)
    loop.run(simulator.start())
    try:
        yield simulator
    finally:
        loop.run(simulator.stop())


@contextlib.contextmanager
def engine_beside(like: SimulatorSettings = AT_ONCE, **changed: Any) -> Iterator[Simulator]:
    """A simulated engine in a thread of its own."""
    loop = LoopThread()
    try:
        with simulated_engine(loop, replace(like, **changed)) as simulator:
            yield simulator
    finally:
        loop.close()


@dataclass(frozen=True, slots=True)
class Result:
    """What one command ended with."""

    code: int
    output: str
    errors: str

    @property
    def json(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.output)
        return told

    @property
    def said(self) -> str:
        """Standard error in one line."""
        return " ".join(self.errors.split())


class _Pipe(io.TextIOWrapper):
    """Keeps what is written, as text or as bytes."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def read_all(self) -> str:
        self.seek(0)
        return self.read()


def run_command(*arguments: str, **variables: str) -> Result:
    """A command in this process: `main` has a loop of its own.

    Of the environment's variables it sees none for vLLM or the exporter, except `variables`.
    """
    output, errors = _Pipe(), _Pipe()
    others = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    try:
        with (
            mock.patch.dict(os.environ, others | variables, clear=True),
            mock.patch.object(sys, "argv", ["vllm-cache-exporter", *arguments]),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            code = main(arguments)
    except SystemExit as ended:  # argparse's own
        code = int(ended.code or 0)
    return Result(code, output.read_all(), errors.read_all())
