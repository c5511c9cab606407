"""Every fault of an engine, against the whole daemon: each on a target of its own, beside a sound
one. docs/faults.md has what this measures.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from daemon_faults_table import Line, note
from engine_faults import Row, one_by_one, side_by_side
from faulted_daemon import FaultedDaemon, absurdities, faulted, stale
from faulty_engine import FaultyEngine, serving

from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from supervised_daemon import Page

pytestmark = pytest.mark.xdist_group("faults")

ROWS = [*side_by_side("http://127.0.0.1:9"), *one_by_one()]
GIVE_UP = 60.0  # seconds; until a fault that does not show is given up
MOST_GROWTH_MIB = 150.0
"""Two answers of 16 MiB and their copies, with room for the allocator; no fault may cost more."""

SETTINGS = """\
[probe]
interval_seconds = 2
scenario = "{scenario}"
max_tokens = 8
tokens_per_hour = 0
max_cache_turnover_per_hour = 0
max_waiting_requests = 1000
control_ratio = 0
retention_gaps_seconds = []
isolation_interval_seconds = 0
connect_timeout_seconds = 4
first_token_timeout_seconds = 4
between_tokens_timeout_seconds = 3
turn_timeout_seconds = 20

[scrape]
interval_seconds = 3
timeout_seconds = 3

"""
SCENARIO = {
    "name": "short",
    "messages": [
        {"role": "user", "content": "Count from one to twenty in words, slowly. " * 8},
        {"role": "assistant", "content": "One, two, three."},
        {"role": "user", "content": "Go on, please."},
    ],
}


@dataclass
class Outcome:
    """What became of one row."""

    noticed: float | None = None
    reasons: tuple[str | None, str | None] = (None, None)
    notices: set[str] = field(default_factory=set)
    present: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    milliseconds: tuple[float, float] = (0.0, 0.0)
    answered: bool = False
    growth_mib: float = 0.0
    healthy: tuple[float, float] = (0.0, 0.0)
    recovered: float | None = None

    def describe(self, page: Page, before: Page, row: Row) -> None:
        """What is exported now that the fault shows."""
        target = target_of(row.name)
        self.noticed = page.at - before.at
        self.reasons = _reasons(page, before, row)
        self.notices = {
            labels["notice"]
            for name, labels, _ in page.samples
            if name == "vllm_probe_notice" and labels["target"] == target
        }
        self.present = [name for name in row.absent if page.value(name, target=target) is not None]
        self.stale = stale(page, target)


@dataclass
class Part:
    """What became of the rows of one daemon, and of itself."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    absurd: list[str] = field(default_factory=list)
    sound_failures: set[str] = field(default_factory=set)
    quiet_milliseconds: tuple[float, float] = (0.0, 0.0)
    loop_failures: float = 0.0
    exit_code: int | None = None
    log: str = ""


@dataclass
class Matrix:
    parts: list[Part]
    led_elsewhere: int = 0

    def outcome(self, row: Row) -> Outcome:
        return next(part.outcomes[row.name] for part in self.parts if row.name in part.outcomes)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return asyncio.run(_matrix(tmp_path_factory.mktemp("faults")))


async def _matrix(folder: Path) -> Matrix:
    """Four daemons, so that a page has about ten targets; in the last, one fault after the other."""
    trap = FaultyEngine()
    light, heavy = side_by_side(trap.url), one_by_one()
    async with Simulator(SimulatorSettings(port=0, time_scale=0.0)) as engine, serving([trap]):
        groups = [light[0::3], light[1::3], light[2::3], heavy]
        parts = await asyncio.gather(
            *(
                _daemon(folder / str(number), engine.url, rows, at_once=rows is not heavy)
                for number, rows in enumerate(groups)
            )
        )
    made = Matrix(parts)
    made.led_elsewhere = trap.paths.count("/led-away")
    return made


async def _daemon(folder: Path, sound: str, rows: list[Row], *, at_once: bool) -> Part:
    engines = {row.name: FaultyEngine(row.fault if at_once else None) for row in rows}
    config = _configured(folder, sound, engines)
    async with serving([*engines.values()]), faulted(config) as daemon:
        scene = Scene(daemon, engines)
        for group in [rows] if at_once else [[row] for row in rows]:
            for row in group:
                engines[row.name].fault = row.fault
            await scene.play(group, readings=20 if at_once else 8)
        return await scene.end()


class Scene:
    """The daemon and its engines; every page that it is read from is looked at in all respects."""

    def __init__(self, daemon: FaultedDaemon, engines: dict[str, FaultyEngine]) -> None:
        self._daemon = daemon
        self._engines = engines
        self._made = Part()
        self._ended: dict[str, tuple[Row, float]] = {}  # those that are yet to be well again

    async def play(self, rows: list[Row], *, readings: int) -> None:
        """Wait until each fault shows, and until the sound engine was probed; then end them."""
        daemon = self._daemon
        before, had = await self._look(lambda _: True), daemon.memory("VmRSS")
        daemon.forget_peak()
        waiting = {row.name: row for row in rows}
        self._made.outcomes |= {row.name: Outcome() for row in rows}
        while waiting:
            now = await self._look(
                lambda page: (
                    page.at > before.at + GIVE_UP
                    or any(_shows(page, before, row) for row in waiting.values())
                )
            )
            shown = [row for row in waiting.values() if _shows(now, before, row)]
            for row in shown or [*waiting.values()]:  # none: what they say instead is noted
                del waiting[row.name]
                self._made.outcomes[row.name].describe(now, before, row)
        now = await self._look(
            lambda page: (
                _sessions(page) > _sessions(before) and daemon.answered(before.at) >= readings
            )
        )
        for row in rows:
            outcome = self._made.outcomes[row.name]
            outcome.stale += stale(now, target_of(row.name))
            outcome.milliseconds = daemon.milliseconds(before.at)
            outcome.answered = daemon.answered(before.at) >= readings
            outcome.growth_mib = daemon.memory("VmHWM") - had
            outcome.healthy = (_sessions(before), _sessions(now))
            self._ended[row.name] = (row, time.monotonic())
            await self._engines[row.name].recover()

    async def end(self) -> Part:
        """Wait until all are well again, and stop the daemon."""
        made, daemon = self._made, self._daemon
        quiet = (await self._look(lambda _: not self._ended)).at
        last = await self._look(lambda _: daemon.answered(quiet) >= 10)
        made.quiet_milliseconds = daemon.milliseconds(quiet)
        made.sound_failures = {
            f"{name} {labels['reason']}"
            for name, labels, value in last.samples
            if name.endswith("_failures_total") and labels.get("target") == "sound" and value
        }
        made.loop_failures = last.count("vllm_exporter_loop_failures_total")
        made.exit_code = await daemon.stop()
        made.log = daemon.log.read_text()
        return made

    async def _look(self, true: Callable[[Page], Any]) -> Page:
        def look(page: Page) -> Any:
            self._made.absurd += absurdities(page)
            for name, (row, ended) in tuple(self._ended.items()):
                if _well(page, row):
                    self._made.outcomes[name].recovered = page.at - ended
                    del self._ended[name]
            return true(page)

        return await self._daemon.until(f"what is waited for; not well: {[*self._ended]}", look)


def _configured(folder: Path, sound: str, engines: dict[str, FaultyEngine]) -> Path:
    folder.mkdir()
    scenario = folder / "short.json"
    scenario.write_text(json.dumps(SCENARIO))
    targets = {"sound": sound, **{target_of(name): e.url for name, e in engines.items()}}
    config = folder / "daemon.toml"
    config.write_text(
        SETTINGS.format(scenario=scenario)
        + "\n".join(f'[[targets]]\nname = "{name}"\nurl = "{url}"' for name, url in targets.items())
    )
    return config


def target_of(name: str) -> str:
    """The target of a row: names of targets have neither blanks nor commas."""
    return f"row{[row.name for row in ROWS].index(name)}"


def _sessions(page: Page) -> float:
    return page.count("vllm_probe_sessions_total", target="sound")


def _new(page: Page, before: Page, name: str, target: str) -> str | None:
    """The reason whose counter has grown since, None where none has."""
    for sample, labels, value in page.samples:
        if (sample, labels.get("target")) == (name, target) and value > before.count(
            name, target=target, reason=labels["reason"]
        ):
            return labels["reason"]
    return None


def _reasons(page: Page, before: Page, row: Row) -> tuple[str | None, str | None]:
    """The expected reasons where they were counted since, and else whatever was."""
    target = target_of(row.name)

    def reason(family: str, expected: str | None, up: str) -> str | None:
        if expected is None and page.value(up, target=target) == 1:
            return None  # a deadline that a busy machine missed before is nothing of this fault
        counted = page.count(family, target=target, reason=expected or "")
        if counted > before.count(family, target=target, reason=expected or ""):
            return expected
        return _new(page, before, family, target)

    return (
        reason("vllm_probe_session_failures_total", row.session, "vllm_probe_up"),
        reason("vllm_engine_scrape_failures_total", row.scrape, "vllm_engine_up"),
    )


def _shows(page: Page, before: Page, row: Row) -> bool:
    """Whether what must be exported of the fault is. A session that ends second began after it."""
    sessions, target = "vllm_probe_sessions_total", target_of(row.name)
    ended = page.count(sessions, target=target) - before.count(sessions, target=target)
    needed = 2 if None in (row.session, row.scrape) else 1
    return ended >= needed and _reasons(page, before, row) == (row.session, row.scrape)


def _well(page: Page, row: Row) -> bool:
    """Whether the session and the reading succeed, with what a sound engine tells."""
    target = target_of(row.name)
    return (
        page.value("vllm_probe_up", target=target) == 1
        and page.value("vllm_engine_up", target=target) == 1
        and page.value("vllm_probe_turn_hit_ratio", target=target, turn="2") is not None
        and page.value("vllm_engine_requests_running", target=target) is not None
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_a_fault_shows_its_reason_costs_little_and_passes(matrix: Matrix, row: Row):
    outcome = matrix.outcome(row)
    assert outcome.reasons == (row.session, row.scrape)
    assert row.notice is None or row.notice in outcome.notices
    assert outcome.present == [], "what is unknown is absent"
    assert outcome.stale == [], "what failed takes its values with it"
    assert outcome.answered, "/metrics answers while the fault is on"
    assert outcome.growth_mib < MOST_GROWTH_MIB
    assert outcome.healthy[1] > outcome.healthy[0], "the sound engine is probed all the same"
    assert outcome.recovered is not None
    note(Line.of(row, outcome))


def test_a_sound_engine_beside_them_never_fails(matrix: Matrix):
    failures = {each for part in matrix.parts for each in part.sound_failures}
    # A machine that is busy with other things may miss a deadline; nothing else can go wrong.
    assert {each for each in failures if "timeout" not in each} == set()
    medians, worst = zip(*(part.quiet_milliseconds for part in matrix.parts), strict=True)
    quiet = (statistics.median(medians), max(worst))
    note(Line("none: all are well again", "sessions and readings succeed", None, quiet, None, None))


def test_nothing_absurd_is_published(matrix: Matrix):
    assert [each for part in matrix.parts for each in part.absurd] == []


def test_nobody_is_led_elsewhere(matrix: Matrix):
    assert matrix.led_elsewhere == 0


def test_no_fault_is_a_mistake_of_the_exporters_own(matrix: Matrix):
    for part in matrix.parts:
        assert part.loop_failures == 0
        assert "Traceback" not in part.log
        assert part.exit_code == 0
