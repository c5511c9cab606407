"""Plays sessions without a pause and checks that the daemon does not grow.

The whole daemon runs in this process, as `vllm-cache-exporter run` does: its loops, its server, its
connections. The engine is a simulator in another process that answers at once. In the meantime the
pages are read as Prometheus and a browser would, and the engine fails in different ways: errors,
streams cut and aborted, restarts. Only the interval between sessions could not be configured.

Ctrl-C ends it early; the sessions so far are judged. Exits with 1 if memory, descriptors, tasks,
threads or objects grew beyond their bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import uvloop
from flatness import FEWEST, WARM_UP, Bound, Verdict, judged
from gauges import Reading, read
from prometheus_client.parser import text_string_to_metric_families

from exporter import config, logs
from exporter.clock import SystemClock
from exporter.daemon.app import Daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HERE = Path(__file__).resolve().parent
PAUSE_SECONDS = 0.001  # from session to session of one target; settings allow no less than 1 s
PRINT_SECONDS = 10.0
LONGEST_SILENCE = 120.0  # seconds without a finished session; longer means that something hangs
BOUNDS = {
    "rss_mib": Bound("resident memory", " MiB", 4.0),
    "descriptors": Bound("descriptors", "", 10.0),
    "tasks": Bound("tasks", "", 4.0),
    "threads": Bound("threads", "", 1.0),
    "objects": Bound("objects", "", 3000.0),
}
SESSIONS_PER_FAULT = 50
FAULTS: tuple[dict[str, Any], ...] = (
    {"fault": "errors", "status": 500, "count": 4},
    {"fault": "cut_stream", "after_chunks": 1, "count": 4},
    {"fault": "stream_error", "after_chunks": 1, "count": 4},
    {"fault": "abort", "after_tokens": 1, "count": 4},
    {"fault": "errors", "status": 429, "count": 4},
    {"fault": "restart", "down_seconds": 0.1},
)
PAGES = ("/metrics", "/metrics?target=soak0", "/", "/?target=soak1", "/api/v1/sessions", "/-/ready")


class Soak:
    """One run. `sessions` is how many are to be played, well or badly.

    Those that a restarting engine refused at the door are not counted: they cost next to nothing.
    """

    def __init__(self, sessions: int, targets: int, engine: str) -> None:
        self.sessions = sessions
        self.engine = engine
        self.readings: list[Reading] = []
        self._ended: dict[str, int] = {}  # by target, good and bad
        self._failed: dict[tuple[str, str], int] = {}  # by target and reason
        self.pages = 0
        self._faults = 0
        self._next_fault_at = SESSIONS_PER_FAULT
        self._targets = targets
        self._began = time.monotonic()

    @property
    def done(self) -> int:
        return sum(self._ended.values()) - self.failed["connection_refused"]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def settings(self, folder: Path) -> config.Settings:
        """The daemon's settings, with sessions back to back."""
        targets = [{"name": f"soak{number}", "url": self.engine} for number in range(self._targets)]
        file = folder / "soak.toml"
        file.write_text(
            f"""
            listen = "127.0.0.1:0"
            log.level = "error"
            probe.scenario = {json.dumps(str(HERE / "scenario.json"))}
            probe.max_tokens = 2
            probe.tokens_per_hour = 0
            probe.max_cache_turnover_per_hour = 0
            probe.max_waiting_requests = 100000
            probe.max_kv_cache_usage_ratio = 1.0
            probe.retention_gaps_seconds = [0.1, 0.5]
            probe.retention_interval_seconds = 60
            probe.isolation_interval_seconds = 10
            scrape.interval_seconds = 5.0
            history.sessions = 20
            history.failures = 5
            targets = {_toml(targets)}
            """
        )
        loaded = config.load(config_file=file, environ={}, dotenv=None, secrets_dir=None).settings
        probe = loaded.probe.model_copy(update={"interval_seconds": PAUSE_SECONDS})
        return loaded.model_copy(update={"probe": probe})

    async def watch(self, url: str, enough: asyncio.Event) -> None:
        """Read pages and cause failures until all sessions have ended, or `enough` is set."""
        every = max(0.1, min(3.0, self.sessions / 3000))
        async with aiohttp.ClientSession() as client:
            printed, changed = 0.0, time.monotonic()
            while self.done < self.sessions and not enough.is_set():
                await asyncio.sleep(every)
                await self._disturb(client)
                before = self.done
                await self._look(client, url)
                changed = time.monotonic() if self.done > before else changed
                if time.monotonic() - changed > LONGEST_SILENCE:
                    raise RuntimeError(f"no session ended for {LONGEST_SILENCE:g} s")
                self.readings.append(read(self.done))
                if self.seconds - printed > PRINT_SECONDS:
                    printed = self.seconds
                    self._tell()

    async def _disturb(self, client: aiohttp.ClientSession) -> None:
        """Make the engine fail in the next way, if it is time."""
        if self.done < self._next_fault_at:
            return
        self._next_fault_at = self.done + SESSIONS_PER_FAULT
        fault = FAULTS[self._faults % len(FAULTS)]
        self._faults += 1
        async with client.post(f"{self.engine}/faults", json=fault) as answer:
            answer.raise_for_status()

    async def _look(self, client: aiohttp.ClientSession, url: str) -> None:
        page = ""
        for path in PAGES:
            async with client.get(url + path) as answer:
                text = await answer.text()
                self.pages += 1
                page = text if path == "/metrics" else page
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == "vllm_probe_sessions_total":
                    self._ended[sample.labels["target"]] = int(sample.value)
                if sample.name == "vllm_probe_session_failures_total":
                    reason = (sample.labels["target"], sample.labels["reason"])
                    self._failed[reason] = int(sample.value)

    def _tell(self) -> None:
        now, rate = self.readings[-1], self.done / self.seconds
        print(
            f"{now.sessions:7} sessions, {rate:5.1f}/s; "
            f"{now.rss_mib:.1f} MiB, {now.descriptors} descriptors, {now.tasks} tasks, "
            f"{now.threads} threads, {now.objects} objects (+{now.window_samples}); "
            f"{max(0, self.sessions - self.done) / rate / 60:.1f} min to go",
            flush=True,
        )

    @property
    def failed(self) -> Counter[str]:
        """Failed sessions by reason."""
        reasons: Counter[str] = Counter()
        for (_, reason), count in self._failed.items():
            reasons[reason] += count
        return reasons

    def verdicts(self) -> list[Verdict]:
        return [
            judged(bound, [(r.sessions, getattr(r, key)) for r in self.readings], self.done)
            for key, bound in BOUNDS.items()
        ]


def _toml(targets: list[dict[str, str]]) -> str:
    tables = (", ".join(f"{k} = {json.dumps(v)}" for k, v in each.items()) for each in targets)
    return "[" + ", ".join(f"{{ {table} }}" for table in tables) + "]"


@asynccontextmanager
async def simulator() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "engine.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C must reach only the soak
    )
    if process.stdin is None or process.stdout is None:  # cannot be: both were asked for
        raise AssertionError
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


async def soak(sessions: int, targets: int, *, trace: bool) -> Soak:
    with tempfile.TemporaryDirectory() as folder:
        async with simulator() as engine:
            run = Soak(sessions, targets, engine)
            settings = run.settings(Path(folder))
            logs.configure(settings.log.format, settings.log.level)
            daemon = Daemon(settings, SystemClock())
            stop, up, enough = asyncio.Event(), asyncio.Event(), asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(daemon.run(stop, up.set), name="daemon")
                await up.wait()
                if trace:
                    group.create_task(grown(run), name="trace")
                asyncio.get_running_loop().add_signal_handler(signal.SIGINT, enough.set)
                await run.watch(daemon.url, enough)
                stop.set()
    return run


async def grown(run: Soak) -> None:
    """Print which lines hold more memory near the end than after the warm-up."""

    async def until(share: float) -> None:
        while run.done < run.sessions * share:  # noqa: ASYNC110 - no event is set at a count
            await asyncio.sleep(1)

    await until(WARM_UP)
    tracemalloc.start()
    await until(0.4)
    early = tracemalloc.take_snapshot()
    await until(0.9)
    late = tracemalloc.take_snapshot()
    tracemalloc.stop()
    for line in late.compare_to(early, "lineno")[:25]:
        print(line)


def report(run: Soak) -> int:
    """Print the result; return 1 if something grew."""
    refused = run.failed["connection_refused"]
    reasons = ", ".join(
        f"{count} {reason}"
        for reason, count in run.failed.most_common()
        if count and reason != "connection_refused"
    )
    print(
        f"{run.done} sessions in {run.seconds:.0f} s ({run.done / run.seconds:.1f}/s), of which "
        f"{run.failed.total() - refused} failed ({reasons}); {refused} more were refused at the "
        f"door of an engine that restarted; {run.pages} pages read"
    )
    verdicts = run.verdicts()
    for each in verdicts:
        said = "flat" if each.flat else "NOT FLAT" if each.readings >= FEWEST else "TOO SHORT"
        print(
            f"{each.bound.name}: {each.first:.1f} → {each.last:.1f}{each.bound.unit}, "
            f"grown by {each.growth:+.2f} (bound {each.bound.most:g}) "
            f"in {each.readings} readings: {said}"
        )
    return 0 if all(each.flat for each in verdicts) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--targets", type=int, default=8, help="default: %(default)s")
    parser.add_argument(
        "--trace",
        action="store_true",
        help="print which lines of code hold more memory at the end; this is slow",
    )
    options = parser.parse_args()
    return report(uvloop.run(soak(options.sessions, options.targets, trace=options.trace)))


if __name__ == "__main__":
    sys.exit(main())
