"""One prompt sent twice, overlapping."""

from __future__ import annotations

import asyncio

import pytest

from exporter.probe.overlapping import overlapping


async def test_the_second_begins_when_the_first_is_being_answered_and_has_not_ended():
    said, second_sent = [], asyncio.Event()

    async def first(begun):
        said.append("first sent")
        await asyncio.sleep(0)
        said.append("first started")
        begun(1)
        await second_sent.wait()
        said.append("first ended")
        return "first"

    async def second():
        said.append("second sent")
        second_sent.set()
        return "second"

    assert await overlapping(first, second) == ("first", "second")
    assert said == ["first sent", "first started", "second sent", "first ended"]


async def test_a_first_that_ends_without_an_answer_does_not_keep_the_second_waiting():
    async def first(_begun):
        return "failed"

    async def second():
        return "second"

    assert await overlapping(first, second) == ("failed", "second")


async def test_cancelling_the_caller_cancels_the_first():
    started, ended = asyncio.Event(), asyncio.Event()

    async def first(begun):
        begun(1)
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def second():
        await asyncio.Event().wait()

    both = asyncio.create_task(overlapping(first, second))
    await started.wait()
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert ended.is_set()
