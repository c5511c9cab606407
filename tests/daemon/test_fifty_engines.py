"""Fifty engines, of which five are killed and five hang: the others keep their intervals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sys
import time
import urllib.request
from collections import defaultdict
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from many_engines import Engines, engines_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PATIENCE = 120.0
SCRAPE, SESSION = 2.0, 4.0  # seconds from round to round
ROUNDS = 8  # scrapes of each healthy engine that are checked
WINDOWS = 4
"""The most tries. A hanging engine would delay the others in every try; other load on the machine
does not."""
SETTINGS = f"""\
listen = "127.0.0.1:0"
[log]
format = "json"
[probe]
interval_seconds = {SESSION}
jitter_ratio = 0
max_tokens = 4
scenario = "./short.json"
tokens_per_hour = 0
max_cache_turnover_per_hour = 0
control_ratio = 0
retention_gaps_seconds = []
isolation_interval_seconds = 0
# Longer than a sound engine ever takes on a busy machine: only those that hang miss them.
first_token_timeout_seconds = 20
[scrape]
interval_seconds = {SCRAPE}
timeout_seconds = 2
# So few that those that hang would fill them all, if they were let.
concurrency = 4
"""
TURN = '{"role": "user", "content": "%s"}, {"role": "assistant", "content": "yes"}'
SCENARIO = f'{{"messages": [{TURN % ("word " * 400)}, {TURN % "and more"}]}}'
LAST_RUN = "vllm_exporter_loop_last_run_timestamp_seconds"
SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')


class Watched:
    """The daemon, and the times of each loop's rounds, by its own clock."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self.rounds: dict[str, list[float]] = defaultdict(list)

    async def page(self, *names: str) -> list[tuple[str, dict[str, str], float]]:
        """Name, labels and value of each sample of these names."""
        query = "&".join(f"name[]={name}" for name in names)

        def read() -> str:
            with urllib.request.urlopen(f"{self.url}/metrics?{query}", timeout=30) as answer:
                return answer.read().decode()

        lines = (await asyncio.to_thread(read)).splitlines()
        found = [SAMPLE.fullmatch(line) for line in lines if not line.startswith("#")]
        return [(each[1], dict(LABEL.findall(each[2])), float(each[3])) for each in found if each]

    async def watch(self) -> None:
        """Record every round until cancelled."""
        while True:
            for _, labels, at in await self.page(LAST_RUN):
                rounds = self.rounds[labels["loop"]]
                if at not in rounds[-1:]:
                    rounds.append(at)
            await asyncio.sleep(SCRAPE / 4)

    def since(self, began: float, loop: str) -> list[float]:
        return [at for at in self.rounds[loop] if at >= began]

    async def until(self, what: str, true: Callable[[], object]) -> None:
        give_up = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < give_up, f"not within {PATIENCE:g} s: {what}"
            await asyncio.sleep(0.1)

    async def up(self) -> dict[str, float]:
        page = await self.page("vllm_engine_up")
        return {labels["target"]: value for _, labels, value in page}


@contextlib.asynccontextmanager
async def watched(folder: Path, targets: dict[str, str]) -> AsyncIterator[Watched]:
    config, log = folder / "exporter.toml", folder / "log"
    (folder / "short.json").write_text(SCENARIO)
    blocks = [f'[[targets]]\nname = "{name}"\nurl = "{url}"\n' for name, url in targets.items()]
    config.write_text(SETTINGS + "".join(blocks))
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter", "run", "--config", str(config)),
            stderr=file,
            cwd=folder,
            env={"PATH": os.environ["PATH"]},
        )
    watching: asyncio.Task[None] | None = None
    try:
        give_up = time.monotonic() + PATIENCE
        while not (started := _event(log, "daemon.started")):
            assert process.returncode is None, log.read_text()
            assert time.monotonic() < give_up
            await asyncio.sleep(0.1)
        daemon = Watched(started["url"], log)
        watching = asyncio.create_task(daemon.watch())
        yield daemon
        assert not watching.done(), "every page was answered"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        if process.returncode is None:
            process.kill()
            await process.wait()


def _event(log: Path, name: str) -> dict[str, str]:
    for line in log.read_text().splitlines():
        if f'"{name}"' in line:
            return json.loads(line)
    return {}


def longest(rounds: list[float]) -> float:
    """The longest time from one round to the next. Sessions scrape the engine too, so scrapes are
    often earlier than the interval.
    """
    return max(later - earlier for earlier, later in pairwise(rounds))


async def test_of_fifty_engines_five_die_and_five_hang_and_forty_keep_their_intervals(tmp_path):
    seed = int(os.environ.get("TEST_SEED") or random.randrange(1 << 32))
    print(f"TEST_SEED={seed}")  # noqa: T201 - shown when the test fails
    names = [f"engine-{number:02}" for number in range(50)]
    victims = random.Random(seed).sample(names, 10)
    killed, hung = set(victims[:5]), set(victims[5:])
    sound = [name for name in names if name not in victims]
    async with (
        engines_of(20) as first,
        engines_of(20) as second,
        engines_of(5) as dying,
        engines_of(5) as hanging,
    ):
        targets = {
            **dict(zip(sound, [*first.urls, *second.urls], strict=True)),
            **dict(zip(killed, dying.urls, strict=True)),
            **dict(zip(hung, hanging.urls, strict=True)),
        }
        async with watched(tmp_path, {name: targets[name] for name in names}) as daemon:
            await _judge(daemon, dying, hanging, killed=killed, hung=hung, sound=sound)


async def _judge(
    daemon: Watched,
    dying: Engines,
    hanging: Engines,
    *,
    killed: set[str],
    hung: set[str],
    sound: list[str],
) -> None:
    def went_round(began: float, names: list[str] | set[str]) -> bool:
        return all(
            len(daemon.since(began, f"scrape:{name}")) > ROUNDS
            and len(daemon.since(began, f"probe:{name}")) > ROUNDS * SCRAPE / SESSION
            for name in names
        )

    everybody = [*sound, *killed, *hung]
    # The first rounds are not yet evenly spread.
    await daemon.until(
        "all were probed", lambda: all(daemon.rounds[f"probe:{n}"] for n in everybody)
    )
    began = time.time()
    await daemon.until("all went round", lambda: went_round(began, everybody))
    assert set((await daemon.up()).values()) == {1.0}
    # A slow machine is slow for all engines, so the others are the measure.
    usual = {
        kind: max(longest(daemon.since(began, f"{kind}:{name}")) for name in sound)
        for kind in ("scrape", "probe")
    }

    dying.process.kill()
    hanging.process.send_signal(signal.SIGSTOP)
    await daemon.until("the hung are seen", lambda: went_round(time.time() - 600, hung))
    late: dict[str, float] = {}
    for _ in range(WINDOWS):
        fault = time.time()
        await daemon.until("the others went round", partial(went_round, fault, sound))
        waits = {
            f"{kind}:{name}": longest(daemon.since(fault, f"{kind}:{name}")) / usual[kind]
            for kind in usual
            for name in sound
        }
        print(f"before {usual}, then at most {max(waits.values()):.2f} times that")  # noqa: T201
        late = {loop: ratio for loop, ratio in waits.items() if ratio > 1.5}
        if not late:
            break
    assert late == {}
    assert {name for name, value in (await daemon.up()).items() if value == 0} == killed | hung
    failures = await daemon.page(
        "vllm_probe_session_failures_total", "vllm_engine_scrape_failures_total"
    )
    failed = {labels["target"] for _, labels, value in failures if value}
    assert failed == killed | hung, "no sound engine was ever taken for another"
    reasons = defaultdict(set)
    for name, labels, value in failures:
        if value and name == "vllm_engine_scrape_failures_total":
            reasons[labels["target"]].add(labels["reason"])
    assert all(reasons[name] == {"timeout"} for name in hung), reasons
    assert all("connection_refused" in reasons[name] for name in killed), reasons

    hanging.process.send_signal(signal.SIGCONT)
    back = time.time()
    await daemon.until(
        "the hung went round again",
        lambda: all(len(daemon.since(back, f"scrape:{name}")) > 3 for name in hung),
    )
    assert {name for name, value in (await daemon.up()).items() if value == 0} == killed
