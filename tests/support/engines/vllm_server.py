"""Real vLLM servers for the tests that need one: each flag set is started once, on demand.

TEST_VLLM_COMMAND is a command line that serves vLLM; `--host`, `--port` and the flags of the set
are appended to it. TEST_VLLM_URL_<SET> names a server that runs already, to save its start.

TEST_ENGINE_KIND_COMMAND is a command line that serves a kind of engine: the kind, such as `eagle`,
and vLLM's flags are appended to it. It takes the address from the variables HOST and PORT.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from real_engines.programs import free_port

FLAG_SETS: dict[str, tuple[str, ...]] = {
    "details32": (
        *("--block-size", "32", "--enable-prompt-tokens-details"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    ),
    "details128": ("--enable-prompt-tokens-details",),  # 128 is vLLM's own choice on a CPU
    "plain32": ("--block-size", "32"),
    "noprefix32": (
        *("--block-size", "32", "--enable-prompt-tokens-details"),
        "--no-enable-prefix-caching",
    ),
}
START_SECONDS = 400.0
KEPT_ALIVE = 4  # each takes 1 to 2.5 GB

HOW = (
    "no real vLLM: set TEST_VLLM_COMMAND to a command line that serves one, for example "
    "'vllm serve MODEL --served-model-name tiny --max-model-len 8192'"
)
HOW_KINDS = (
    "no real engines of other kinds: set TEST_ENGINE_KIND_COMMAND to a command line that serves one"
)


@dataclass
class Server:
    """One vLLM process group."""

    url: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def signal(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the server and all its children."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


@dataclass
class VllmServers:
    """Servers by flag set; the one that was used longest ago makes room for another."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="test-vllm-")))
    _running: dict[str, Server] = field(default_factory=dict)

    def get(self, flag_set: str) -> str:
        """The URL of a server with these flags; started if it does not run."""
        return self.server(flag_set).url

    def server(self, flag_set: str) -> Server:
        """As `get`, for a test that stops the server: the next to ask gets a new one."""
        given = os.environ.get(f"TEST_VLLM_URL_{flag_set.upper()}")
        if given:
            return Server(given, self.folder / "none")
        server = self._running.pop(flag_set, None)
        if server is None or server.process is None or server.process.poll() is not None:
            while len(self._running) >= KEPT_ALIVE:
                self._running.pop(next(iter(self._running))).stop()
            server = self.start(*FLAG_SETS[flag_set])
        self._running[flag_set] = server
        return server

    def start(self, *flags: str, port: int | None = None) -> Server:
        """A new server, ready to answer. The caller stops it."""
        command = shlex.split(_command("TEST_VLLM_COMMAND", HOW))
        port = port or free_port()
        return self._start([*command, "--host", "127.0.0.1", "--port", str(port), *flags], port)

    def start_kind(self, kind: str, *flags: str, port: int | None = None, **env: str) -> Server:
        """A new server of a kind of engine, ready to answer. The caller stops it."""
        command = shlex.split(kind_command())
        port = port or free_port()
        return self._start([*command, kind, *flags], port, PORT=str(port), HOST="127.0.0.1", **env)

    def _start(self, command: list[str], port: int, **env: str) -> Server:
        log = self.folder / f"{port}-{time.monotonic_ns()}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                env=os.environ | env,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(f"http://127.0.0.1:{port}", log, process)
        try:
            _wait_until_healthy(server)
        except BaseException:
            server.stop()
            raise
        return server

    def stop_all(self) -> None:
        for server in self._running.values():
            server.stop()
        self._running.clear()


def kind_command() -> str:
    """The command line that serves a kind. Without one the test is skipped, or fails in CI."""
    return _command("TEST_ENGINE_KIND_COMMAND", HOW_KINDS)


def _command(variable: str, how: str) -> str:
    command = os.environ.get(variable)
    if not command:
        if os.environ.get("CI") == "true":
            pytest.fail(how)
        pytest.skip(how)
    return command


def _wait_until_healthy(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        ended = server.process is not None and server.process.poll() is not None
        if ended or time.monotonic() > deadline:
            tail = "\n".join(server.log.read_text(errors="replace").splitlines()[-30:])
            what = "ended" if ended else f"was not healthy within {START_SECONDS:g} s"
            pytest.fail(f"the real vLLM {what}:\n{tail}")
        time.sleep(0.5)
