"""How long an engine that is busy, stands still or rests is left alone, and what is published."""

import asyncio

import pytest
import structlog
from admission_scene import Scene
from load_views import engine

from exporter.model.failure import FailureReason
from exporter.model.probe import PauseReason


@pytest.mark.parametrize(
    ("busy", "reason"),
    [(engine(waiting=1.0), PauseReason.QUEUE), (engine(usage=0.95), PauseReason.USAGE)],
)
async def test_a_busy_engine_is_waited_for_and_the_reason_is_published_until_it_is_over(
    busy, reason
):
    scene = Scene()
    scene.view, scene.works = busy, True
    with structlog.testing.capture_logs() as logged:
        waiting = asyncio.create_task(scene.pass_through())
        await scene.clock.until_asleep()
        await scene.clock.advance(100.0)
        assert not waiting.done()
        assert set(scene.published) == {reason}
        scene.view = engine()
        await scene.clock.advance(10.0)
        await waiting
    assert scene.published[-1] is None
    assert [(line["event"], line.get("reason")) for line in logged] == [
        ("probe.paused", reason),
        ("probe.resumed", None),
    ]


@pytest.mark.parametrize(
    ("stuck", "reason"),
    [(engine(waiting=15.0), PauseReason.QUEUE), (engine(usage=0.95), PauseReason.USAGE)],
)
async def test_an_engine_that_counts_nothing_for_a_minute_is_probed_once_whatever_its_gauges_say(
    stuck, reason
):
    scene = Scene()
    scene.view = stuck
    with structlog.testing.capture_logs() as logged:
        for round_ in range(1, 4):
            waiting = asyncio.create_task(scene.pass_through())
            await scene.clock.until_asleep()
            await scene.clock.advance(59.0)
            assert not waiting.done()
            assert scene.published[-1] is reason
            await scene.clock.advance(1.0)
            await waiting
            assert scene.published.count(None) == round_
    assert [line["event"] for line in logged] == ["probe.paused", "probe.engine_stalled"]


async def test_the_minute_without_a_count_restarts_with_each_count_and_each_idle_reading():
    scene = Scene()
    scene.view = engine(waiting=1.0)
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    for generated in range(10):
        await scene.clock.advance(55.0)
        scene.view = engine(waiting=1.0, generated=float(generated))
    assert not waiting.done()
    scene.view = engine()
    await scene.clock.advance(5.0)
    await waiting


async def test_only_a_session_finds_out_whether_an_engine_that_counts_nothing_is_stuck():
    scene = Scene()
    scene.view = engine(waiting=1.0)

    async def quiet():
        async with scene.admission.admitted():
            pass

    waiting = asyncio.create_task(quiet())
    await scene.clock.until_asleep()
    await scene.clock.advance(600.0)
    assert not waiting.done()
    scene.view = engine()
    await scene.clock.advance(5.0)
    await waiting


async def test_a_sleeping_engine_is_not_probed_however_long_it_counts_nothing():
    scene = Scene()
    scene.view = engine(asleep=True)
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(3600.0)
    assert not waiting.done()
    assert set(scene.published) == {PauseReason.ASLEEP}
    scene.view = engine(asleep=False)
    await scene.clock.advance(5.0)
    await waiting
    assert scene.published[-1] is None


async def test_an_engine_that_failed_a_session_is_asked_whether_it_sleeps_or_is_paused():
    """Before vLLM 0.11 /metrics does not show sleep, and no version shows a pause there."""
    scene = Scene()
    await scene.pass_through(failure=FailureReason.FIRST_TOKEN_TIMEOUT)
    assert scene.rest_asked == 0
    scene.rest = FailureReason.PAUSED
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(600.0)
    assert not waiting.done()
    assert scene.published[-1] is PauseReason.PAUSED
    scene.rest = None
    await scene.clock.advance(5.0)
    await waiting
    asked = scene.rest_asked
    await scene.pass_through()
    assert scene.rest_asked == asked, "an engine that answers is not asked"


async def test_a_queue_that_stands_still_in_a_paused_engine_is_not_probed():
    """Requests of others wait in it, and only the engine can say that it does not hang."""
    scene = Scene()
    scene.view = engine(waiting=15.0)
    scene.rest = FailureReason.PAUSED
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(30.0)
    assert (scene.published[-1], scene.rest_asked) == (PauseReason.QUEUE, 0)
    await scene.clock.advance(3600.0)
    assert not waiting.done()
    assert scene.published[-1] is PauseReason.PAUSED
    scene.rest = None
    await scene.clock.advance(5.0)
    await waiting


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (FailureReason.PAUSED, PauseReason.PAUSED),
        (FailureReason.SCALING, PauseReason.SCALING),
        (FailureReason.ASLEEP, PauseReason.ASLEEP),
    ],
)
async def test_an_engine_that_said_it_rests_gets_no_session_for_a_minute(failure, reason):
    scene = Scene()
    await scene.pass_through(failure=failure)
    assert scene.published[-1] is reason, "between two sessions too"
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(59.0)
    assert not waiting.done()
    await scene.clock.advance(1.0)
    await waiting
    assert scene.published[-1] is None
