"""The hooks of a running session, and the turns that a cancelled one leaves."""

from __future__ import annotations

import asyncio

from scraper_bench import requests_to

from exporter.model.session import Notice
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionHooks
from exporter.probe.session.runner import SessionRunner


async def test_a_cancelled_session_keeps_the_turns_that_finished(bench):
    async with bench() as scene:
        finished = []

        def cancel_at_the_third(index: int, _turns: int) -> None:
            if index == 3:
                task.cancel()

        hooks = SessionHooks(on_turn_start=cancel_at_the_third, on_turn=finished.append)
        task = asyncio.create_task(scene.runner.play(hooks))
        await asyncio.wait([task])
        left = scene.runner.so_far()
    assert task.cancelled()
    assert left is not None
    assert list(left.turns) == finished
    assert [turn.index for turn in left.turns] == [1, 2]
    assert (left.failure, left.failed_turn) == (None, None)
    assert left.simulated
    assert Notice.SIMULATED in left.notices


async def test_before_the_first_session_there_is_none(bench):
    async with bench() as scene:
        assert scene.runner.so_far() is None


async def test_after_a_session_so_far_is_the_whole_session(bench):
    async with bench() as scene:
        result = await scene.play()
        left = scene.runner.so_far()
    assert left is not None
    assert left.turns == result.turns
    assert left.notices == result.notices


async def test_hooks_announce_each_request_and_each_control_before_it_is_sent(bench):
    async with bench() as scene:
        told: list[str] = []
        hooks = SessionHooks(
            on_turn_start=lambda index, _turns: told.append(f"turn {index}"),
            on_request=lambda control: told.append("control" if control else "turn's own"),
        )
        runner = SessionRunner(
            scene.plan,
            requests_to(scene.client),
            iter(map(str, range(100))).__next__,
            control=ColdControl(1.0, lambda: 0.9, iter(map(str, range(100, 200))).__next__),
        )
        await runner.play(hooks)
    assert told[:5] == ["turn 1", "turn's own", "turn 2", "turn's own", "control"]
