"""How long prefixes survive: on a simulator over HTTP, with a clock of the test's."""

import asyncio
import contextlib
import itertools
from dataclasses import replace

import pytest
import structlog
from fake_clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st
from load_views import load_policy, new_admission
from probe_loops import ProbeLoops
from scraper_bench import unheard_scraper

from exporter.analysis import retention
from exporter.analysis.reuse.repeated_prompt import most_cached
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.model.chat import Usage
from exporter.model.probe import RetentionUnknown
from exporter.probe.engine_requests import EngineRequests
from exporter.scenario.retention_prefix import prefix_messages
from exporter.simulator.faults import behaviours, faults
from exporter.simulator.server import Simulator, SimulatorSettings

GAPS = (1.0, 10.0, 60.0, 300.0, 900.0)
DEADLINES = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)


class Scene:
    """A retention loop against a simulator, driven by hand."""

    def __init__(self, simulator: Simulator, client: EngineClient, gaps, budget) -> None:
        self.simulator, self.client = simulator, client
        self.clock = FakeClock(monotonic=0.0)
        scraper = unheard_scraper(client, self.clock)
        salts = iter(f"salt-{number}" for number in range(10_000))
        self.admission = new_admission(scraper.refresh, self.clock, load_policy(budget))
        self.requests = EngineRequests(client, scraper.refresh, self.clock)
        loops = ProbeLoops(self.clock, self.admission, self.requests, new_salt=lambda: next(salts))
        self.loop = loops.retention(gaps)
        self.readings, self.consumed = loops.sink.retention, loops.sink.tokens

    async def until_asleep(self):
        """Wait until the loop sleeps, HTTP included."""
        await self.clock.until_asleep()

    async def wait(self, seconds):
        await self.clock.advance(seconds)
        await self.until_asleep()

    async def traffic(self, number, tokens=200):
        """Another client's request of that length."""
        text = f"stranger {number} " + "and another word " * (tokens // 3)
        info = await self.client.info()
        messages = [{"role": "user", "content": text}]
        chat = await self.client.chat(
            ChatRequest(info.model, messages, 4, f"stranger-{number}"), DEADLINES
        )
        assert chat.failure is None

    @property
    def ratios(self):
        return {reading.gap_seconds: reading.ratio for reading in self.readings}


@contextlib.asynccontextmanager
async def scene_of(gaps=GAPS, budget=0, **settings):
    options = {"port": 0, "time_scale": 0.0, "num_blocks": 4096, **settings}
    async with (
        Simulator(SimulatorSettings(**options)) as simulator,
        EngineClient(simulator.url) as client,
    ):
        scene = Scene(simulator, client, gaps, budget)
        task = asyncio.create_task(scene.loop.run())
        try:
            yield scene
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_on_a_large_quiet_cache_every_prefix_survives_every_gap():
    async with scene_of() as scene:
        await scene.until_asleep()
        for seconds in GAPS:
            await scene.wait(seconds)
    assert scene.ratios == dict.fromkeys(GAPS, 1.0)
    assert [reading.gap_seconds for reading in scene.readings] == list(GAPS)
    assert len(scene.consumed) == 1 + len(GAPS)


@pytest.mark.parametrize("block_size", [16, 128])
async def test_in_a_small_cache_with_traffic_survival_falls_with_the_gap(block_size):
    blocks = 40
    async with scene_of(block_size=block_size, num_blocks=blocks) as scene:
        await scene.until_asleep()
        passed = 0.0
        for number in range(130):
            await scene.traffic(number, tokens=block_size)
            step = 10.0 if passed else 1.0
            await scene.wait(step)
            passed += step
    survived = [scene.ratios[gap] for gap in GAPS]
    assert survived == sorted(survived, reverse=True)
    assert survived[0] == 1.0
    assert survived[-1] == 0.0
    assert len(set(survived)) >= 2


async def test_one_prefix_serves_all_gaps_and_each_gap_counts_from_the_read_before():
    async with scene_of() as scene:
        sent, chat = [], scene.client.chat

        async def noted(request, *arguments):
            answer = await chat(request, *arguments)
            sent.append((scene.clock.monotonic(), request, answer.usage))
            return answer

        scene.client.chat = noted
        await scene.until_asleep()
        for seconds in GAPS:
            await scene.wait(seconds)
    times = [at for at, _, _ in sent]
    assert [now - then for then, now in itertools.pairwise(times)] == list(GAPS)
    assert len({(request.cache_salt, str(request.messages)) for _, request, _ in sent}) == 1
    first, *reads = [usage for _, _, usage in sent]
    assert first.cached_tokens == 0
    assert {first.prompt_tokens - read.cached_tokens <= 16 for read in reads} == {True}


async def test_what_is_lost_after_a_read_counts_for_the_next_gap_and_that_read_writes_it_again():
    async with scene_of(gaps=(1.0, 10.0, 60.0)) as scene:
        await scene.until_asleep()
        await scene.wait(1)
        scene.simulator.engine.ranks[0].cache.reset()
        await scene.wait(10)
        await scene.wait(60)
    assert scene.ratios == {1.0: 1.0, 10.0: 0.0, 60.0: 1.0}


async def test_the_gaps_after_a_restart_are_known_again():
    async with scene_of(gaps=(1.0, 10.0, 60.0)) as scene:
        await scene.until_asleep()
        await scene.wait(1)
        scene.simulator.inject(faults.Restart())
        await _answers(scene.client)
        await scene.wait(10)
        await scene.wait(60)
    told = [(reading.ratio, reading.unknown) for reading in scene.readings]
    assert told == [(1.0, None), (None, RetentionUnknown.RESTARTED), (1.0, None)]


async def test_a_read_that_failed_leaves_its_gap_and_the_next_one_unknown_and_no_other():
    async with scene_of(gaps=(1.0, 10.0, 60.0)) as scene:
        await scene.until_asleep()
        scene.simulator.inject(faults.Errors())
        await scene.wait(1)
        scene.simulator.clear(faults.Errors)
        await scene.wait(10)
        await scene.wait(60)
    told = [(reading.ratio, reading.unknown) for reading in scene.readings]
    assert told == [(None, RetentionUnknown.FAILED)] * 2 + [(1.0, None)]


async def test_after_a_late_read_the_next_gap_counts_from_the_last_use():
    async with scene_of(gaps=(1.0, 60.0)) as scene:
        await scene.until_asleep()
        scene.clock.jump(20)
        await scene.wait(0)
        await scene.wait(39)
        assert len(scene.readings) == 1
        await scene.wait(1)
    told = [(reading.ratio, reading.unknown) for reading in scene.readings]
    assert told == [(None, RetentionUnknown.LATE), (1.0, None)]
    assert len(scene.consumed) == 2


async def test_slow_requests_do_not_make_the_gaps_late():
    async with scene_of() as scene:
        chat = scene.client.chat

        async def slow(*arguments):
            scene.clock.jump(0.9)
            return await chat(*arguments)

        scene.client.chat = slow
        await scene.until_asleep()
        for seconds in GAPS:
            await scene.wait(seconds + 0.9)
    assert scene.ratios == dict.fromkeys(GAPS, 1.0)


async def test_rounds_repeat_on_their_own_schedule():
    async with scene_of(gaps=(10.0,)) as scene:
        await scene.until_asleep()
        await scene.wait(10)
        assert len(scene.readings) == 1
        await scene.wait(3580)
        assert len(scene.readings) == 1
        await scene.wait(10)
        await scene.wait(10)
    assert [reading.ratio for reading in scene.readings] == [1.0, 1.0]


async def unknown_of(scene):
    await scene.until_asleep()
    await scene.wait(10)
    assert [reading.ratio for reading in scene.readings] == [None]
    return scene.readings[0].unknown


@pytest.mark.parametrize(
    ("settings", "unknown"),
    [
        ({"enable_prefix_caching": False}, RetentionUnknown.CACHING_OFF),
        ({"enable_prompt_tokens_details": False}, RetentionUnknown.UNREPORTED),
        ({"log_stats": False}, RetentionUnknown.BLOCK_UNKNOWN),
        ({"block_size": 4096, "max_model_len": 4096}, RetentionUnknown.TOO_SHORT),
    ],
)
async def test_what_this_server_cannot_tell_is_unknown_and_not_zero(settings, unknown):
    async with scene_of(gaps=(10.0,), **settings) as scene:
        with structlog.testing.capture_logs() as logged:
            assert await unknown_of(scene) is unknown
    lines = [line for line in logged if line["event"] == "retention.unknown"]
    assert [line["reason"] for line in lines] == [unknown]


async def test_an_engine_restarted_within_the_gap_says_nothing_about_the_gap():
    async with scene_of(gaps=(10.0,)) as scene:
        await scene.until_asleep()
        scene.simulator.inject(faults.Restart())
        await _answers(scene.client)
        assert await unknown_of(scene) is RetentionUnknown.RESTARTED


async def test_where_several_engines_answer_nothing_is_said_about_the_gap():
    async with scene_of(gaps=(10.0,)) as scene:
        await scene.until_asleep()
        observe = scene.requests.observe

        async def observe_two():
            return replace(await observe(), mixed=True)

        scene.requests.observe = observe_two
        assert await unknown_of(scene) is RetentionUnknown.MIXED


async def _answers(client):
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(Exception):
                if await client.healthy():
                    return
            await asyncio.sleep(0.01)


async def test_an_engine_that_fails_the_read_leaves_the_gap_unknown():
    async with scene_of(gaps=(10.0,)) as scene:
        await scene.until_asleep()
        scene.simulator.inject(faults.Errors())
        assert await unknown_of(scene) is RetentionUnknown.FAILED


async def test_an_engine_that_refuses_salts_keeps_prefixes_apart_by_their_nonces():
    refusing = behaviours.StrictFields("unknown_to_openai")
    async with scene_of(gaps=(1.0, 10.0), behaviours=(refusing,)) as scene:
        await scene.until_asleep()
        for seconds in (1, 10):
            await scene.wait(seconds)
    assert scene.ratios == {1.0: 1.0, 10.0: 1.0}


async def test_a_prefix_that_was_read_twice_says_nothing_about_the_gap():
    """The server closed the first connection, so the second read hits what the first computed."""
    async with scene_of(gaps=(1.0,)) as scene:
        await scene.until_asleep()
        chat = scene.client.chat

        async def twice(*arguments):
            await chat(*arguments)
            return replace(await chat(*arguments), sent_twice=True)

        scene.simulator.engine.ranks[0].cache.reset()
        scene.client.chat = twice
        await scene.wait(1)
    assert [reading.unknown for reading in scene.readings] == [RetentionUnknown.FAILED]
    assert scene.ratios == {1.0: None}


async def test_an_engine_that_fails_a_write_gets_no_further_write():
    async with scene_of() as scene:
        scene.simulator.inject(faults.Errors())
        await scene.until_asleep()
        for seconds in GAPS:
            await scene.wait(seconds)
        told = [(reading.gap_seconds, reading.unknown) for reading in scene.readings]
        assert sorted(told) == [(gap, RetentionUnknown.FAILED) for gap in GAPS]
        assert len(scene.consumed) == 1


async def test_an_unreachable_engine_leaves_every_gap_unknown():
    async with scene_of() as scene:
        await scene.until_asleep()
        await scene.wait(sum(GAPS))
        known = len(scene.readings)
        assert known == len(GAPS)
        await scene.simulator.stop()
        await scene.wait(3600)
    assert [reading.ratio for reading in scene.readings[known:]] == [None] * len(GAPS)


async def test_a_read_that_comes_too_late_is_not_taken_for_its_gap():
    async with scene_of(gaps=(10.0,)) as scene:
        await scene.until_asleep()
        scene.clock.jump(12.5)
        assert await unknown_of(scene) is RetentionUnknown.LATE


async def test_a_round_waits_for_the_budget_and_is_charged_for_its_reads_at_the_writes():
    async with scene_of(gaps=(1.0, 10.0), budget=1000) as scene:
        await scene.until_asleep()
        await scene.wait(1)
        await scene.wait(10)
        spent = sum(scene.consumed)
        waiting = asyncio.create_task(_pass_through(scene.admission))
        await scene.clock.settle()
        await scene.clock.advance(spent * 3.6 - 11 - 60)
        assert not waiting.done()
        await scene.clock.advance(120)
        await asyncio.wait_for(waiting, 30)


async def _pass_through(admission):
    async with admission.admitted():
        pass


def test_prefixes_with_different_nonces_share_no_block():
    one, other = (prefix_messages(nonce, 16, 8192) for nonce in ("a1", "b2"))
    assert one[0]["content"][:10] != other[0]["content"][:10]
    assert one[0]["content"][10:] == other[0]["content"][10:]


@given(st.integers(1, 5000), st.one_of(st.none(), st.integers(256, 200_000)))
def test_a_prefix_stays_within_half_of_the_context(match_unit, max_model_len):
    text = prefix_messages("nonce", match_unit, max_model_len)[0]["content"]
    assert len(text) >= 64
    if max_model_len is not None:
        assert len(text) <= max(64, max_model_len // 2 * 4.5) + 64


@given(st.integers(1, 100_000), st.integers(1, 9000), st.integers(0, 100_000))
def test_the_share_retained_is_a_ratio_and_whole_only_if_all_was(prompt, unit, cached):
    usage = Usage(prompt, 1, cached)
    most = most_cached(prompt, unit)
    share = retention.retention_ratio(usage, most)
    assert (share is None) == (most == 0)
    if share is not None:
        assert 0 <= share <= 1
        assert (share == 1) == (cached >= most)
    assert retention.retention_ratio(replace(usage, cached_tokens=None), most) is None
    assert retention.retention_ratio(usage, None) is None


@pytest.mark.parametrize(
    ("ratio", "ranks", "other"), [(0.0, 2, True), (0.5, 2, True), (1.0, 2, False), (0.5, 1, False)]
)
def test_a_short_read_on_several_ranks_may_have_run_on_another_one(ratio, ranks, other):
    assert retention.other_rank(ratio, ranks) is other
    assert retention.other_rank(None, ranks) is False


def test_a_prefix_that_hits_when_it_is_written_is_not_new():
    assert retention.write_obstacle(Usage(200, 1, 16), 192) is RetentionUnknown.NOT_COLD
    assert retention.write_obstacle(Usage(200, 1, 0), 192) is None
    assert retention.write_obstacle(Usage(16, 1, 0), 0) is RetentionUnknown.TOO_SHORT
    assert retention.write_obstacle(Usage(200, 1, 0), None) is RetentionUnknown.RULE_UNKNOWN
    assert retention.write_obstacle(None, 16) is RetentionUnknown.UNREPORTED
