"""What the daemon exports of each kind of server, and which alerts its pages would fire."""

from __future__ import annotations

import time
from dataclasses import asdict

import pytest
from alarms import firing
from right_answers import RIGHT
from served import RESTING, RESTS, watch

from exporter.clock import SystemClock
from exporter.simulator.faults.behaviours import Asleep, PodGone

pytestmark = pytest.mark.xdist_group("engine kinds")  # one daemon measures all of them
HELD_BACK = ("frozen-queue",)
PLAYED = [
    name
    for name, right in RIGHT.items()
    if name not in HELD_BACK and name not in RESTING and right.failure is None
]
each_played = pytest.mark.parametrize("name", PLAYED)
SESSIONS = 3


@pytest.fixture(scope="module")
def watched(loop):
    """One daemon over all servers that answer, until each has had some sessions and tests."""

    def enough(seen):
        return all(
            seen.last.count_of("vllm_probe_sessions_total", name) >= SESSIONS for name in PLAYED
        )

    return watch(loop, PLAYED, enough)


@each_played
def test_every_session_gets_through(watched, name):
    assert watched.last.value("vllm_probe_up", target=name) == 1
    assert not watched.last.counted("vllm_probe_session_failures_total", name, "reason")


@each_played
def test_nothing_is_wedged(watched, name):
    assert all(page.value("vllm_probe_cache_wedged", target=name) != 1 for page in watched.pages)


@each_played
def test_a_leak_is_counted_only_where_a_salt_does_not_isolate(watched, name):
    leaks = watched.last.value("vllm_probe_isolation_leaks_total", target=name)
    assert bool(leaks) == ("isolation" in RIGHT[name].fails)


@each_played
def test_hit_ratios_are_there_where_cached_tokens_are_known(watched, name):
    turns = {s["turn"] for s in watched.last.series("vllm_probe_turn_hit_ratio", name)}
    cached = RIGHT[name].cached
    if cached == "unknown":
        assert turns == set()
    elif cached == "hidden":
        assert turns == {"1"}
    elif cached != "some":
        assert turns == {str(turn) for turn in range(1, 9)}


@each_played
def test_lost_tokens_have_the_causes_of_the_kind(watched, name):
    causes = watched.last.counted("vllm_probe_lost_tokens_total", name, "cause")
    assert causes <= RIGHT[name].causes | RIGHT[name].gives_up


@each_played
def test_three_sessions_of_one_process_hit_all_that_its_rule_allows(watched, name):
    right = RIGHT[name]
    if right.cached not in ("ideal", "attainable"):
        return
    sessions = [each for each in watched.sessions if each["target"] == name]
    assert len(sessions) >= SESSIONS
    for session in sessions:
        for turn in session["turns"][1:]:
            recovered = "token_ids_recovered" in right.notices  # on a busy machine not always
            if not (recovered and turn["ideal_cached_tokens"] is None):
                assert (turn["efficiency_ratio"], turn["loss"]) == (1.0, None)
        # Answers much shorter than a unit do not show whether they are kept.
        known = {part: value for part, value in session["reuse_rule"].items() if value is not None}
        assert known == {part: asdict(right.rule)[part] for part in known}
        assert "unit_tokens" in known


@each_played
def test_the_page_calls_it_what_it_is(watched, name):
    (target,) = (each for each in watched.targets if each["target"] == name)
    assert target["state"] == RIGHT[name].state


@each_played
@pytest.mark.parametrize("family", ["prefix_cache_queried_tokens", "tokens_saved"])
def test_the_exporter_is_no_user(watched, name, family):
    """Nobody else asks these servers, but where the profile says so."""
    users = watched.last.value(f"vllm_engine_users_{family}_total", target=name)
    assert not users


@pytest.fixture(scope="module")
def fired(watched, promtool, tmp_path_factory):
    return firing(promtool, watched.pages, tmp_path_factory.mktemp("alarms"))


SLOWNESS = {"VllmTtftBudgetBurnsFast", "VllmTtftBudgetBurnsSlowly", "VllmTtftRegression"}


@pytest.mark.promtool
@each_played
def test_no_alert_fires_but_those_that_are_right(fired, name):
    """Slow turns apart, which say something of the machine that runs the test."""
    assert set(fired.get(name, {})) - SLOWNESS <= RIGHT[name].alarms


@pytest.mark.promtool
def test_the_exporter_itself_gives_no_alarm(fired):
    assert fired.get("", {}) == {}


# Servers that answer no request


@pytest.fixture(scope="module")
def resting(loop):
    """A daemon over the servers that sleep, are paused or hang, until it has said so of each."""

    def enough(seen):
        pauses = [
            seen.last.value("vllm_probe_paused", target=name, reason=reason) == 1
            for name, reason in RESTS.items()
        ]
        failed = seen.last.count_of("vllm_probe_session_failures_total", "hung-queue")
        return all(pauses) and failed >= 2  # one may be chance, and gives no alarm

    settings = {
        "probe.first_token_timeout_seconds": "2",
        "probe.max_waiting_requests": "1000",  # the queue of the hung one is another test
    }
    return watch(loop, RESTING, enough, **settings)


@pytest.mark.parametrize("name", RESTS)
def test_an_engine_that_rests_holds_the_probe_back_and_is_not_called_ill(resting, name):
    assert resting.last.value("vllm_probe_paused", target=name, reason=RESTS[name]) == 1
    assert resting.last.value("vllm_engine_up", target=name) == (name != "scaling")
    reasons = resting.last.counted("vllm_probe_session_failures_total", name, "reason")
    assert reasons == (set() if name == "asleep" else {RESTS[name]}), "it is asked, or refuses"


def test_the_page_says_that_an_engine_sleeps(resting):
    states = {target["target"]: target["state"] for target in resting.targets}
    assert {states[name] for name in RESTS} == {"asleep"}
    assert "asleep" in resting.front.lower()


def test_a_hung_engine_fails_its_sessions(resting):
    assert resting.last.counted("vllm_probe_session_failures_total", "hung-queue", "reason") == {
        "first_token_timeout"
    }


@pytest.mark.promtool
def test_no_alert_fires_for_an_engine_that_rests(resting, promtool, tmp_path):
    found = firing(promtool, resting.pages, tmp_path)
    assert {name: set(found.get(name, {})) for name in RESTING} == {
        name: set(RIGHT[name].alarms) for name in RESTING
    }


def test_sessions_begin_when_an_engine_wakes(loop):
    def enough(seen):
        if seen.last.value("vllm_probe_paused", target="asleep", reason="asleep") == 1:
            seen.servers["asleep"].clear(Asleep)
        return seen.last.count_of("vllm_probe_sessions_total", "asleep") >= 1

    seen = watch(loop, ["asleep"], enough)
    assert seen.last.value("vllm_probe_up", target="asleep") == 1
    assert not seen.last.counted("vllm_probe_session_failures_total", "asleep", "reason")


# Engines that leave


@pytest.mark.parametrize("name", ["merged-pages", "old-router"])
def test_totals_neither_fall_nor_jump_when_an_engine_leaves(loop, name):
    totals = ("vllm_engine_prefix_cache_queried_tokens_total", "vllm_engine_tokens_saved_total")

    def enough(seen):
        sessions = seen.last.count_of("vllm_probe_sessions_total", name)
        if sessions >= 1:
            seen.servers[name].inject(PodGone())
        return sessions >= 4

    settings = {"scrape.interval_seconds": "1", "scrape.timeout_seconds": "1"}
    seen = watch(loop, [name], enough, **settings)
    computed = seen.servers[name].engine.process.ranks
    prompts = sum(rank.totals["prefix_cache_queries"] for rank in computed)
    for total in totals:
        values = [page.value(total, target=name) for page in seen.pages]
        known = [value for value in values if value is not None]
        assert known == sorted(known)
        assert all(value <= prompts for value in known)


# Gauges that stand still


class FastClock(SystemClock):
    """A clock whose minute is two seconds."""

    FACTOR = 30.0

    def __init__(self) -> None:
        self._begin = time.perf_counter()

    def monotonic(self) -> float:
        return self._begin + (time.perf_counter() - self._begin) * self.FACTOR

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / self.FACTOR)


def test_a_queue_that_stands_still_holds_the_probe_back_for_a_minute(loop):
    def enough(seen):
        return seen.last.count_of("vllm_probe_sessions_total", "frozen-queue") >= 1

    pages = watch(
        loop, HELD_BACK, enough, clock=FastClock(), **{"probe.interval_seconds": "60"}
    ).pages
    held = [
        page.value("vllm_probe_paused", target="frozen-queue", reason="queue") for page in pages
    ]
    assert 1 in held, "it was held back at first"
    assert not pages[-1].value("vllm_probe_session_failures_total", target="frozen-queue")
