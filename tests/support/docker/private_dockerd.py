"""A Docker Engine of a test's own, which may be stopped, frozen and started again.

It runs beside the machine's engine with folders, a socket and a containerd of its own, in a network
namespace of its own that has a loopback and nothing else, so that nothing of the other is touched.
A container that is to be reached from within that namespace takes the network "host".
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 60.0  # seconds
_ATTEMPTS = 3


def dockerd_program() -> Path | None:
    """The daemon's program: from TEST_DOCKERD, from PATH, or that of the one which runs here."""
    named = os.environ.get("TEST_DOCKERD") or shutil.which("dockerd")
    if named:
        return Path(named)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "dockerd":
                return (process / "exe").readlink()
        except OSError:  # gone, or another process's
            continue
    return None


def _enter_network(pid: int) -> None:
    """Move this thread alone into the network namespace of a process (os.setns is Python 3.12)."""
    clone_newnet = 0x40000000
    with Path(f"/proc/{pid}/ns/net").open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), clone_newnet) != 0:
            raise OSError(ctypes.get_errno(), "setns")


class PrivateDockerd:
    """`folder` must be short: the paths of unix sockets are."""

    def __init__(self, program: Path, folder: Path, *options: str, gpus: bool = False) -> None:
        self.host = f"unix://{folder}/d.sock"
        # A network namespace of its own, for a dockerd with --bridge=none begins by deleting the
        # bridge docker0, which would be the other engine's (moby, daemon_unix.go,
        # removeDefaultBridgeInterface). A process holds it, so that it outlives a restart.
        self._namespace = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self._namespace.stdout is not None
        assert self._namespace.stdout.readline() == b"up\n"
        self.inside = ("nsenter", f"--net=/proc/{self._namespace.pid}/ns/net")
        self._threads: list[ThreadPoolExecutor] = []
        self._command = [
            *self.inside,
            str(program),
            f"--host={self.host}",
            f"--data-root={folder}/data",
            f"--exec-root={folder}/exec",
            f"--pidfile={folder}/pid",
            "--bridge=none",
            "--iptables=false",
            "--shutdown-timeout=2",
            *options,
        ]
        self._folder = folder
        self._environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
        if gpus:
            self._pretend_to_have_a_gpu_toolkit()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and again where it gave up: it waits 15 s for its containerd, and a busy
        machine may need more.
        """
        for attempt in range(_ATTEMPTS):
            try:
                self._start()
            except RuntimeError:
                self.stop()
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                return

    def _start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )
        give_up = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                log_text = (self._folder / "log").read_text(errors="replace")
                raise RuntimeError(f"dockerd did not start:\n{log_text[-3000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """As an upgrade of Docker does it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE)
            self._process = None

    def close(self) -> None:
        """Stop for good, and let go of the network namespace."""
        self.stop()
        for thread in self._threads:
            thread.shutdown()
        self._namespace.kill()
        self._namespace.wait()
        assert self._namespace.stdout is not None
        self._namespace.stdout.close()

    def call_inside(self, function: Callable[[str], bytes]) -> Callable[[str], bytes]:
        """`function`, called on a thread that is in the engine's network namespace."""
        thread = ThreadPoolExecutor(1, initializer=_enter_network, initargs=(self._namespace.pid,))
        self._threads.append(thread)
        return lambda argument: thread.submit(function, argument).result()

    def freeze(self) -> None:
        """Still there, and not answering: connections are accepted by the kernel alone."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            try:
                client.connect(self.host.removeprefix("unix://"))
                client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 OK" in client.recv(100)
            except OSError:
                return False

    def _pretend_to_have_a_gpu_toolkit(self) -> None:
        # Docker takes a request for GPUs where it finds this program in its PATH.
        programs = self._folder / "bin"
        programs.mkdir()
        hook = programs / "nvidia-container-runtime-hook"
        hook.write_text("#!/bin/sh\nexit 0\n")
        hook.chmod(0o755)
        self._environment["PATH"] = f"{programs}:{self._environment['PATH']}"
