"""Requests that are due are sent between the turns of a session that was admitted."""

import asyncio
from contextlib import suppress

import pytest
from admission_scene import Scene


async def test_a_due_request_is_sent_between_two_turns_of_a_session():
    scene = Scene()
    done = []

    async def due():
        async with scene.admission.turn():
            done.append("due")

    async with scene.admission.admitted():
        waiting = asyncio.create_task(due())
        await scene.clock.settle()
        done.append("request 1")
        await scene.admission.yield_turn()
        done.append("request 2")
    await waiting
    assert done == ["request 1", "due", "request 2"]


async def test_an_admitted_session_waits_for_a_due_request():
    scene = Scene()
    ends, done = asyncio.Event(), []

    async def due():
        async with scene.admission.turn():
            await ends.wait()
            done.append("due")

    reading = asyncio.create_task(due())
    await scene.clock.settle()
    waiting = asyncio.create_task(scene.pass_through())
    waiting.add_done_callback(lambda _: done.append("session"))
    await scene.clock.settle()
    ends.set()
    await asyncio.gather(reading, waiting)
    assert done == ["due", "session"]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_session_cancelled_while_it_yields_leaves_the_admission_free(begun):
    scene = Scene()
    ends = asyncio.Event()

    async def due():
        async with scene.admission.turn():
            await ends.wait()

    async def session():
        async with scene.admission.admitted():
            await scene.clock.settle()
            await scene.admission.yield_turn()

    tasks = [asyncio.create_task(one()) for one in ((session, due) if begun else (due, session))]
    await scene.clock.settle()
    await scene.clock.settle()
    cut_off = tasks[0 if begun else 1]
    cut_off.cancel()
    with suppress(asyncio.CancelledError):
        await cut_off
    ends.set()
    await tasks[1 if begun else 0]
    await scene.clock.advance(1e9)
    await scene.pass_through()
    async with scene.admission.turn():
        pass
