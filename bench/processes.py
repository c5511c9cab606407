"""The programs that a benchmark starts, and what it reads of them. Linux only."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HERE = Path(__file__).parent
EXPORTER = (sys.executable, "-m", "exporter")
PATIENCE_SECONDS = 60.0
_KIBIBYTE = 1024
_CORES = sorted(os.sched_getaffinity(0))  # those of the start: later this process leaves the first


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def cores() -> tuple[set[int], set[int]]:
    """The core for the measured process, and the cores for the processes that load it."""
    return {_CORES[0]}, set(_CORES[1:]) or {_CORES[0]}


@contextmanager
def running(
    command: Sequence[str],
    *,
    on: set[int] | None = None,
    environment: Mapping[str, str] | None = None,
    grace: float = 10.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """The program on these cores, until the end of the context; then SIGTERM, and SIGKILL."""
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    prefix = () if on is None else ("taskset", "--cpu-list", ",".join(map(str, sorted(on))))
    process = subprocess.Popen(
        [*prefix, *command],
        env=own | dict(environment or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=HERE,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Raises `TimeoutError` if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain")
        time.sleep(0.05)


def first_answer(port: int, path: str = "/metrics") -> None:
    """Ask every 2 ms until there is a complete answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\nHost: bench\r\n\r\n".encode())
                if connection.recv(16).startswith(b"HTTP/1.0 200"):
                    return
        except OSError:
            pass
        time.sleep(0.002)
    raise TimeoutError(f"nothing answered at port {port}")


def page(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return str(answer.read(), "utf-8")


def value(text: str, series: str) -> float:
    """The sum of all series of that name in a page; 0 if there is none."""
    found = re.findall(rf"^{re.escape(series)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads so far."""
    own = Path(f"/proc/{pid}/schedstat").read_text("utf-8").split()
    others = [
        file.read_text("utf-8").split()[0] for file in Path(f"/proc/{pid}/task").glob("*/schedstat")
    ]
    return max(int(own[0]), sum(map(int, others))) / 1e9


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def machine() -> dict[str, str]:
    """The properties of the machine that the figures depend on."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
            if line.startswith("model name")
        ),
        os.uname().machine,
    )
    kibibytes = Path("/proc/meminfo").read_text("utf-8").split()[1]
    return {
        "processor": processor,
        "cores": str(len(_CORES)),
        "memory": f"{int(kibibytes) * _KIBIBYTE / 1e9:.0f} GB",
        "system": f"{os.uname().sysname} {os.uname().release}",
        "python": sys.version.split()[0],
    }


def load() -> str:
    """How busy the machine is: runnable processes, averaged over a minute."""
    return f"{os.getloadavg()[0]:.1f}"
