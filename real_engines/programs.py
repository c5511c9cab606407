"""The programs of one measurement: the engine, the exporter's daemon and its commands."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from real_engines.recipes import Recipe

EXPORTER = (sys.executable, "-m", "exporter")
_STOP_SECONDS = 30.0
_PORTS = range(20000, 32000)


class EngineError(RuntimeError):
    """An engine did not start, or a program did not do what it should."""


def free_port() -> int:
    """A port that is free now, below those that the system gives to outgoing connections.

    vLLM binds it half a minute later, and again after a restart.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise EngineError(f"no free port from {_PORTS.start} to {_PORTS.stop}")


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read(), "utf-8")


def answers(url: str) -> bool:
    try:
        read(url)
    except OSError:
        return False
    return True


def wait_until(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Ask each second. Raises `EngineError`."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise EngineError(f"{what}: waited {seconds:g} s in vain")
        time.sleep(1)


@contextmanager
def running(
    command: Sequence[str], log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a process group of its own, which ends with the context."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop_group(process)


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL: an engine has processes of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_STOP_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


@contextmanager
def served(
    recipe: Recipe,
    log: Path,
    port: int | None = None,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[str]:
    """The URL of the engine, once /health answers. Without a port it gets a free one."""
    if recipe.url is not None:
        yield recipe.url.rstrip("/")
        return
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {**recipe.environment, **environment}
    with running([*recipe.words(port), *flags], log, **variables) as process:

        def ready() -> bool:
            if process.poll() is not None:
                raise EngineError(f"{recipe.name} ended before it was ready; see {log}")
            return answers(f"{url}/health")

        wait_until(ready, recipe.start_seconds, f"the start of {recipe.name}")
        yield url


def command_json(*arguments: str) -> tuple[int, Any]:
    """Exit code and JSON of a command of the exporter. Raises `EngineError` without JSON."""
    done = subprocess.run([*EXPORTER, *arguments], capture_output=True, text=True, check=False)
    try:
        return done.returncode, json.loads(done.stdout)
    except ValueError as error:
        raise EngineError(f"{arguments[0]} printed no JSON: {done.stderr[-500:]}") from error
