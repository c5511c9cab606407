"""What the daemon costs between sessions: resident memory and share of one core.

Runs `vllm-cache-exporter run` with its default settings (a session a minute, a scrape each ten
seconds) against a simulated engine in a process of its own, waits for the end of the first
session, and reads /proc until just before the next. Linux only. Exits with 1 above the bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

RSS_BOUND_MB, CPU_BOUND = 70.0, 0.005
COMMAND = [sys.executable, "-m", "exporter"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def sessions(port: int) -> int:
    """How many sessions the daemon has finished; 0 while it is not up."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/sessions") as page:
            return len(json.load(page)["sessions"])
    except OSError:
        return 0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="how long to look")
    seconds = parser.parse_args().seconds
    engine_port, port = free_port(), free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {"VLLM_HOST": f"http://127.0.0.1:{engine_port}", "PATH": os.environ["PATH"]}
    simulate = [*COMMAND, "simulate", "--port", str(engine_port)]
    run = [*COMMAND, "run", "--listen", f"127.0.0.1:{port}", "--probe.jitter_ratio", "0"]
    with subprocess.Popen(simulate, **quiet) as engine:
        try:
            with subprocess.Popen(run, env=environment, **quiet) as daemon:
                try:
                    return measure(daemon.pid, port, seconds)
                finally:
                    daemon.terminate()
        finally:
            engine.terminate()


def measure(pid: int, port: int, seconds: float) -> int:
    deadline = time.monotonic() + 60
    while sessions(port) == 0:
        if time.monotonic() > deadline:
            print("the daemon finished no session within 60 s")
            return 1
        time.sleep(0.2)
    begun, before = time.monotonic(), cpu_seconds(pid)
    time.sleep(seconds)
    share = (cpu_seconds(pid) - before) / (time.monotonic() - begun)
    memory = rss_mb(pid)
    good = memory < RSS_BOUND_MB and share < CPU_BOUND
    print(
        f"idle for {seconds:g} s: {memory:.1f} MB resident (bound {RSS_BOUND_MB:g})"
        f", {share:.2%} of a core (bound {CPU_BOUND:.1%}): {'kept' if good else 'NOT KEPT'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
