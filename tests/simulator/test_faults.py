"""Faults and their requests over HTTP."""

from __future__ import annotations

import asyncio

import pytest
from fake_clock import FakeClock
from sim_client import HELLO, simulator, until

from exporter.simulator.faults.faults import Crash, FaultInputError, Restart


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        ({"fault": "earthquake"}, "fault", "one of crash, restart"),
        ({}, "fault", "one of crash"),
        ([1], "body", "an object"),
        ({"fault": "slow", "factor": "fast"}, "factor", "a number from 0.01 to 10000"),
        ({"fault": "slow", "factor": True}, "factor", "a number"),
        ({"fault": "slow", "speed": 2}, "speed", "only the keys fault, factor"),
        ({"fault": "errors", "count": 0}, "count", "a whole number from 1"),
        ({"fault": "errors", "status": 200}, "status", "from 400 to 599"),
        ({"fault": "small_cache", "blocks": 1.5}, "blocks", "a whole number from 2"),
        ({"fault": "hang", "scope": "all"}, "scope", '"engine" or "http"'),
        ({"fault": "crash", "mode": "exit"}, "mode", '"refuse"'),
        ({"fault": "restart", "down_seconds": None}, "down_seconds", "a number from 0"),
    ],
)
async def test_a_bad_fault_is_refused_with_its_field_value_and_what_is_allowed(
    body, field, allowed
):
    async with simulator() as (_, client):
        status, answer = await client.post("/faults", body)
        assert status == 400
        (mistake,) = answer["mistakes"]
        assert mistake["field"] == field
        assert allowed in mistake["allowed"]
        assert (await client.get("/faults"))[1]["active"] == []


async def test_all_mistakes_are_named_at_once():
    async with simulator() as (_, client):
        _, answer = await client.post("/faults", {"fault": "hang", "scope": 1, "after_tokens": -1})
        assert {mistake["field"] for mistake in answer["mistakes"]} == {"scope", "after_tokens"}


async def test_faults_are_listed_replaced_and_cleared():
    async with simulator() as (_, client):
        await client.fault(fault="slow", factor=2)
        await client.fault(fault="slow", factor=3)
        await client.fault(fault="wedge")
        _, listed = await client.get("/faults")
        assert listed["active"] == [{"fault": "slow", "factor": 3}, {"fault": "wedge"}]
        assert listed["available"]["slow"]["keys"]["factor"]["allowed"]
        assert (await client.delete("/faults/slow"))[1]["active"] == [{"fault": "wedge"}]
        assert (await client.delete("/faults/nothing"))[0] == 404
        assert (await client.delete("/faults"))[1]["active"] == []


async def test_errors_come_so_many_times():
    async with simulator() as (_, client):
        await client.fault(fault="errors", status=503, count=2)
        statuses = [(await client.chat())[0] for _ in range(3)]
        assert statuses == [503, 503, 200]
        await client.fault(fault="errors")
        status, body = await client.chat()
        assert (status, body["error"]["type"]) == (500, "InternalServerError")


async def test_health_can_fail_while_chat_goes_on():
    async with simulator() as (_, client):
        await client.fault(fault="unhealthy")
        assert (await client.get("/health"))[0] == 503
        assert (await client.chat())[0] == 200


async def test_a_cut_stream_ends_without_done_and_frees_its_request():
    async with simulator() as (running, client):
        await client.fault(fault="cut_stream", after_chunks=3, count=1)
        events = await client.stream()
        assert (len(events), events[-1]) == (4, "cut")
        assert running.engine.ranks[0].cache.usage == 0
        assert (await client.stream())[-1] == "done"


async def test_an_error_inside_a_stream_is_an_object_before_done():
    async with simulator() as (_, client):
        await client.fault(fault="stream_error", after_chunks=2, count=1)
        events = await client.stream()
        assert events[-1] == "done"
        assert events[-2]["error"]["code"] == 500
        assert len(events) == 4


async def test_an_aborted_answer_says_so_streamed_and_whole():
    async with simulator() as (_, client):
        await client.fault(fault="abort", after_tokens=3)
        events = await client.stream()
        assert events[-3]["choices"][0]["finish_reason"] == "abort"
        assert events[-2]["usage"]["completion_tokens"] == 3
        _, whole = await client.chat()
        assert whole["choices"][0]["finish_reason"] == "abort"
        assert whole["usage"]["completion_tokens"] == 3


async def test_a_hanging_stream_goes_on_when_the_fault_is_cleared():
    async with simulator() as (running, client):
        await client.fault(fault="hang", after_tokens=2)
        asked = asyncio.create_task(client.stream())
        await until(lambda: running.engine.ranks[0].load > 0)
        assert (await client.get("/health"))[0] == 200
        assert not asked.done()
        await client.delete("/faults")
        assert (await asked)[-1] == "done"


async def test_a_hanging_http_server_answers_only_faults():
    async with simulator() as (_, client):
        await client.fault(fault="hang", scope="http")
        asked = [asyncio.create_task(client.get(path)) for path in ("/health", "/metrics")]
        _, listed = await client.get("/faults")
        assert listed["active"][0]["scope"] == "http"
        assert not any(task.done() for task in asked)
        await client.delete("/faults/hang")
        assert [(await task)[0] for task in asked] == [200, 200]


async def test_usage_details_and_usage_and_ids_can_be_missing():
    async with simulator() as (_, client):
        usage = (await client.stream())[-2]["usage"]
        assert "cached_tokens" in usage["prompt_tokens_details"]
        await client.fault(fault="no_usage_details")
        assert "prompt_tokens_details" not in (await client.stream())[-2]["usage"]
        assert (await client.chat())[1]["usage"]["prompt_tokens_details"] is None
        await client.fault(fault="no_usage")
        events = await client.stream()
        assert not any("usage" in event for event in events[:-1])
        await client.fault(fault="no_token_ids")
        events = await client.stream()
        assert events[0]["prompt_token_ids"] is None
        assert events[1]["choices"][0]["token_ids"] is None


async def test_statistics_can_be_off_and_the_start_time_stays():
    async with simulator() as (_, client):
        await client.fault(fault="no_log_stats")
        _, page = await client.get("/metrics")
        assert "vllm:" not in page
        assert await client.metric("process_start_time_seconds ") > 0


async def test_a_moving_system_prompt_breaks_the_prefix_of_the_second_turn():
    async with simulator() as (_, client):
        cached = []
        for moving in (False, True):
            if moving:
                await client.fault(fault="moving_system_prompt")
            salt = f"s{moving}"
            _, first = await client.chat(cache_salt=salt)
            said = first["choices"][0]["message"]["content"]
            more = [{"role": "assistant", "content": said}, {"role": "user", "content": "And?"}]
            _, second = await client.chat(cache_salt=salt, messages=HELLO + more)
            cached.append(second["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert cached[0] > 0
        assert cached[1] == 0


async def test_a_restart_cuts_streams_refuses_and_comes_back_empty():
    slow = {"time_scale": 1.0, "prefill_floor_seconds": 0.0}
    async with simulator(**slow) as (running, client):
        await client.chat()
        started = await client.metric("process_start_time_seconds ")
        asked = asyncio.create_task(client.stream(max_tokens=5000, ignore_eos=True))
        await until(lambda: running.engine.ranks[0].cache.usage > 0)
        answer = await client.fault(fault="restart", down_seconds=0.2)
        assert answer["doing"] == {"fault": "restart", "down_seconds": 0.2}
        assert (await asked)[-1] == "cut"
        assert await client.refused()
        await until(client.answers)
        assert await client.metric("process_start_time_seconds ") > started
        assert await client.metric("vllm:prompt_tokens_total{") == 0
        _, again = await client.chat()
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_a_crash_stays_down_until_it_is_recovered():
    async with simulator() as (running, client):
        port = running.port
        await client.fault(fault="crash")
        await until(client.refused)
        await running.recover()
        assert running.port == port
        assert (await client.chat())[0] == 200


async def test_a_crash_can_end_by_itself():
    async with simulator() as (running, client):
        running.inject(Crash(down_seconds=0.05))
        await until(client.refused)
        await until(client.answers)
        assert (await client.chat())[0] == 200


async def test_a_crash_of_the_process_reports_its_exit_code():
    codes = []
    async with simulator(on_exit=codes.append) as (running, client):
        running.inject(Crash(mode="exit", exit_code=7))
        await until(lambda: codes)
        assert codes == [7]
        assert await client.refused()


async def test_a_crash_of_a_shared_process_is_refused():
    async with simulator() as (running, _):
        with pytest.raises(FaultInputError, match="shares its process"):
            running.inject(Crash(mode="exit"))


async def test_it_can_be_stopped_while_it_is_down():
    async with simulator() as (running, client):
        running.inject(Restart(down_seconds=3600))
        await until(client.refused)
        await running.stop()


async def test_a_restart_waits_for_a_taken_port():
    clock = FakeClock()
    async with simulator(clock=clock) as (running, client):
        running.inject(Restart(down_seconds=5))
        await clock.until_asleep()
        squatter = await asyncio.start_server(lambda *_: None, "127.0.0.1", running.port)
        await clock.advance(5)
        await clock.until_asleep()  # it could not bind, and waits before the next try
        squatter.close()
        await squatter.wait_closed()
        await clock.advance(1)
        await until(client.answers)
        assert (await client.chat())[0] == 200
