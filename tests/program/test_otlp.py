"""The running daemon pushes what /metrics shows, and each session as spans."""

from __future__ import annotations

import asyncio
import re

import pytest
from otlp_receiver import attributes, samples, serving, spans

from exporter.metrics.families.tables import PROCESS
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.scenario.model import text_of
from exporter.simulator.faults import faults
from exporter.simulator.server import Simulator, SimulatorSettings

SETTINGS = """\
[otlp]
metrics_enabled = true
traces_enabled = true
endpoint = "{url}"
interval_seconds = 1
header_files = {{ Authorization = "key" }}

[probe]
interval_seconds = {interval}
tokens_per_hour = 0
max_cache_turnover_per_hour = 0
heartbeat_interval_seconds = 0
isolation_interval_seconds = 0
retention_gaps_seconds = []

[scrape]
interval_seconds = 0.5
timeout_seconds = 0.5

[[targets]]
name = "local"
url = "{engine}"
"""


@pytest.fixture
async def receiver():
    async with serving() as made:
        yield made


@pytest.fixture
async def engine():
    async with Simulator(SimulatorSettings(port=0, time_scale=0.2)) as simulator:
        yield simulator


def configured(folder, receiver, engine, interval=3600):
    (folder / "key").write_text("Bearer canary-of-the-receiver\n")
    file = folder / "exporter.toml"
    file.write_text(SETTINGS.format(url=receiver.url, engine=engine.url, interval=interval))
    return "--config", str(file)


async def test_the_metrics_are_those_of_the_page_of_the_same_moment(
    daemon, receiver, engine, tmp_path
):
    arguments = configured(tmp_path, receiver, engine)
    async with daemon(tmp_path / "log", *arguments) as at:

        async def a_session_is_on_the_page():
            return await at.value("vllm_probe_sessions_total", target="local") == 1

        await at.until("a session", a_session_is_on_the_page)
        # Between two pages that say the same, what was sent says it too.
        for _ in range(30):
            first, count = still(await at.samples()), len(receiver.metrics)
            await receiver.until("new metrics", lambda count=count: len(receiver.metrics) > count)
            second = still(await at.samples())
            same = first.keys() & second.keys()
            sent = still({(n, words(k)): v for (n, k), v in samples(receiver.metrics[-1]).items()})
            if first.keys() == second.keys() == sent.keys():
                break
        assert first.keys() == second.keys() == sent.keys()
        changed = {key for key in same if first[key] != second[key]}
        assert {k: sent[k] for k in same - changed} == {k: first[k] for k in same - changed}
        assert len(same - changed) > 150
        process = {sample.name for metric in PROCESS.collect() for sample in metric.samples}
        assert process <= {name for name, _ in samples(receiver.metrics[-1])}
        assert {each["authorization"] for each in receiver.headers} == {
            "Bearer canary-of-the-receiver"
        }
        assert await at.stop() == 0
    assert "canary-of-the-receiver" not in (tmp_path / "log").read_text()


def words(labels):
    """As on a page, where bounds are text."""
    return tuple(sorted((name, text(value)) for name, value in labels))


def text(value):
    if isinstance(value, float):
        return "+Inf" if value == float("inf") else str(value)
    return value


def still(found):
    return {key: value for key, value in found.items() if not key[0].startswith("process_")}


async def test_a_session_is_a_trace_whose_turns_have_their_times_and_their_cause(
    daemon, receiver, engine, tmp_path
):
    engine.inject(faults.Wedge())
    arguments = configured(tmp_path, receiver, engine)
    async with daemon(tmp_path / "log", *arguments) as at:
        await receiver.until("spans", lambda: receiver.traces)
        (told,) = await at.sessions()
        assert await at.stop() == 0
    whole, *turns = spans(receiver)
    assert [attributes(each)["vllm_cache_exporter.turn"] for each in turns] == [
        turn["turn"] for turn in told["turns"]
    ]
    ends = 0
    for span, turn in zip(turns, told["turns"], strict=True):
        found = attributes(span)
        assert found["gen_ai.usage.input_tokens"] == turn["prompt_tokens"]
        assert found["gen_ai.usage.cache_read.input_tokens"] == turn["cached_tokens"]
        assert found["gen_ai.response.time_to_first_chunk"] == turn["ttft_seconds"]
        loss = turn["loss"]
        assert found.get("vllm_cache_exporter.loss_cause") == (loss and loss["cause"])
        begin, end = span.start_time_unix_nano, span.end_time_unix_nano
        assert (end - begin) / 1e9 == pytest.approx(turn["latency_seconds"], abs=1e-6)
        assert whole.start_time_unix_nano <= begin <= end <= whole.end_time_unix_nano
        assert begin >= ends, "turns follow each other"
        ends = end
    assert any(turn["loss"] for turn in told["turns"])
    sent = b"".join(request.SerializeToString() for request in receiver.traces)
    scenario = CODING_AGENT.build(0)
    for message in (message for step in scenario.steps for message in step):
        for line in re.findall(r"[^\n]{30,}", text_of(message)):
            assert line.encode() not in sent


async def test_a_dead_receiver_changes_nothing_for_the_sessions_or_the_end(
    daemon, receiver, engine, tmp_path
):
    receiver.delay = 60
    arguments = configured(tmp_path, receiver, engine, interval=1)
    async with daemon(tmp_path / "log", *arguments) as at:

        async def sessions():
            return await at.value("vllm_probe_sessions_total", target="local") >= 3

        await at.until("three sessions", sessions)
        await receiver.until("requests", lambda: receiver.asked >= 2)
        assert await asyncio.wait_for(at.stop(), 8) == 0
