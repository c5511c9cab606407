"""A real vLLM: the numbers agree with its own, and its failures have the right reasons."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.vllm

MOVING = Path(__file__).parents[1] / "cli" / "data" / "moving_system_prompt.jinja"

OFTEN = ("--probe.interval_seconds", "1", "--scrape.interval_seconds", "1",
         "--scrape.timeout_seconds", "1", "--probe.tokens_per_hour", "0", "--probe.max_cache_turnover_per_hour", "0",
         "--probe.control_ratio", "0")  # fmt: skip


SAME = (
    ("vllm_engine_prefix_cache_queried_tokens_total", "vllm:prefix_cache_queries_total"),
    ("vllm_engine_prefix_cache_hit_tokens_total", "vllm:prefix_cache_hits_total"),
    ("vllm_engine_tokens_saved_total", "vllm:prompt_tokens_cached_total"),
    ("vllm_engine_prompt_tokens_total", "vllm:prompt_tokens_total"),
    ("vllm_engine_generation_tokens_total", "vllm:generation_tokens_total"),
    ("vllm_engine_preemptions_total", "vllm:num_preemptions_total"),
)


class Recorder:
    """A proxy between exporter and server that records the streams."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.streams: list[list[dict[str, Any]]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        async with (
            aiohttp.ClientSession(self._upstream) as session,
            session.request(request.method, request.path, data=await request.read(),
                            headers={"Content-Type": "application/json"}) as answer,
        ):  # fmt: skip
            response = web.StreamResponse(
                status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]}
            )
            await response.prepare(request)
            body = b""
            async for chunk in answer.content.iter_any():
                body += chunk
                await response.write(chunk)
        if request.path == "/v1/chat/completions":
            lines = [line[6:] for line in body.split(b"\n\n") if line.startswith(b"data: {")]
            self.streams.append([json.loads(line) for line in lines])
        return response


@contextlib.asynccontextmanager
async def recording(upstream: str) -> AsyncIterator[tuple[str, Recorder]]:
    recorder = Recorder(upstream)
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", recorder.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", recorder
    finally:
        await runner.cleanup()


def served_from_cache(streams: list[list[dict[str, Any]]], block: int) -> list[int]:
    """What a cache of whole blocks serves for each recorded prompt, by its ids."""
    cache: set[tuple[int, ...]] = set()
    served = []
    for stream in streams:
        prompt = next(tuple(one["prompt_token_ids"]) for one in stream if "prompt_token_ids" in one)
        answer = [i for one in stream for choice in one["choices"]
                  for i in choice.get("token_ids") or []]  # fmt: skip
        hit = 0
        while hit + block < len(prompt) and prompt[: hit + block] in cache:
            hit += block
        served.append(hit)
        computed = prompt + tuple(answer[:-1])
        cache |= {computed[:end] for end in range(block, len(computed) + 1, block)}
    return served


async def run_probe(url: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "probe", "--url", url, "--json", *arguments),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    output, _ = await process.communicate()
    return process.returncode or 0, json.loads(output)


async def counters(url: str) -> dict[str, float]:
    """The server's own counters, added up over its series."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        page = await answer.text()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


async def generated(url: str) -> float:
    """The tokens that the server has generated. A busy server may show its page between streams
    only, so that the gauge of running requests is 0 at each reading.
    """
    return (await counters(url))["vllm:generation_tokens_total"]


@pytest.mark.parametrize(("flag_set", "block"), [("details32", 32), ("details128", 128)])
async def test_every_turn_of_a_probe_hits_as_the_token_ids_predict(vllm_servers, flag_set, block):
    async with recording(vllm_servers.get(flag_set)) as (url, recorder):
        code, session = await run_probe(url)
    assert code == 0
    assert session["failure"] is None
    assert session["simulated"] is False
    turns = session["turns"]
    assert len(turns) == 8
    assert [turn["cached_tokens"] for turn in turns] == served_from_cache(recorder.streams, block)
    assert [turn["ideal_cached_tokens"] for turn in turns] == [t["cached_tokens"] for t in turns]
    assert turns[0]["cached_tokens"] == 0
    assert turns[0]["efficiency_ratio"] is None
    assert turns[0]["prompt_tokens"] > 8 * block
    assert [turn["efficiency_ratio"] for turn in turns[1:]] == [1.0] * 7
    assert all(turn["hit_ratio"] > 0.5 for turn in turns[1:])


async def test_the_daemon_shows_the_same_numbers_as_the_server(daemon, vllm_servers, tmp_path):
    url = vllm_servers.get("details32")
    async with daemon(tmp_path / "log", *OFTEN[2:], VLLM_HOST=url) as at:
        await at.until("a session ended", at.sessions)

        async def agree() -> bool:
            own = await counters(url)
            return all([await at.value(family) == own[name] for family, name in SAME])

        await at.until("the totals are the server's own", agree)
        session = (await at.sessions())[0]
        assert session["failure"] is None
        for turn in session["turns"]:
            shown = await at.value("vllm_probe_turn_tokens_saved", turn=str(turn["turn"]))
            assert shown == turn["cached_tokens"]
        assert await at.value("vllm_engine_info", block_size="32", version="0.32.0+cpu") == 1 or (
            await at.value("vllm_engine_info", block_size="32") == 1
        )


async def test_without_the_details_flag_there_is_no_ratio_and_the_flag_is_named(
    daemon, vllm_servers, tmp_path
):
    log = tmp_path / "log"
    async with daemon(log, VLLM_HOST=vllm_servers.get("plain32")) as at:
        await at.until("a session ended", at.sessions)
        assert (await at.sessions())[0]["failure"] is None
        assert await at.value("vllm_probe_turn_hit_ratio") is None
        assert await at.value("vllm_probe_turn_ttft_seconds", turn="1") > 0
        assert await at.value("vllm_probe_notice", notice="usage_details_missing") == 1
        assert "--enable-prompt-tokens-details" in (await at.get("/"))[1]
    assert "--enable-prompt-tokens-details" in log.read_text()


async def test_with_prefix_caching_off_the_ratio_is_zero_because_it_is_disabled(
    daemon, vllm_servers, tmp_path
):
    async with daemon(tmp_path / "log", VLLM_HOST=vllm_servers.get("noprefix32")) as at:
        await at.until("a session ended", at.sessions)
        for turn in range(1, 9):
            assert await at.value("vllm_probe_turn_hit_ratio", turn=str(turn)) == 0
        assert await at.value("vllm_probe_turn_efficiency_ratio", turn="8") == 0
        assert await at.value("vllm_probe_lost_tokens_total", cause="disabled") > 0
        assert "disabled" in (await at.get("/"))[1]


async def test_a_server_killed_in_a_stream_is_down_with_a_reason_and_comes_back_by_itself(
    daemon, vllm_servers, tmp_path
):
    server = vllm_servers.server("details128")
    port = int(server.url.rpartition(":")[2])
    arguments = (*OFTEN, "--probe.max_tokens", "400")
    async with daemon(tmp_path / "log", *arguments, VLLM_HOST=server.url) as at:

        async def is_up(value: float) -> bool:
            return await at.value("vllm_probe_up") == value

        async def in_a_stream() -> bool:
            return await generated(server.url) > before

        await at.until("the probe is up", lambda: is_up(1))
        before = await generated(server.url)
        await at.until("tokens are generated", in_a_stream)
        server.signal(signal.SIGKILL)
        await at.until("the probe is down", lambda: is_up(0))
        for family in ("hit_ratio", "ttft_seconds", "tokens_saved", "latency_seconds"):
            assert await at.value(f"vllm_probe_turn_{family}") is None
        reasons = {session["failure"]["reason"] for session in await at.sessions()
                   if session["failure"]}  # fmt: skip
        assert reasons & {"stream_cut", "connection_refused"}
        server.stop()
        flags = ("--enable-prompt-tokens-details",)
        again = await asyncio.to_thread(vllm_servers.start, *flags, port=port)
        try:
            await at.until("the probe is up again", lambda: is_up(1))
            assert await at.value("vllm_probe_turn_hit_ratio", turn="2") > 0.5
            assert await at.value("vllm_engine_restarts_total") == 1
        finally:
            again.stop()


async def test_a_server_stopped_during_a_stream_aborts_the_turn(vllm_servers):
    server = vllm_servers.server("noprefix32")

    before = await generated(server.url)

    async def stop_in_the_stream() -> None:
        while await generated(server.url) == before:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
        # Like `docker stop`: only the server gets the signal and stops its children.
        server.process.send_signal(signal.SIGTERM)

    stopping = asyncio.create_task(stop_in_the_stream())
    patience = ("--probe.first_token_timeout_seconds", "20")
    code, session = await run_probe(server.url, "--probe.max_tokens", "600", *patience)
    await stopping
    server.stop()
    assert code == 1
    assert session["failure"]["reason"] in {
        *("aborted", "stream_cut", "stream_error", "server_error", "connection_refused"),
        *("stalled", "first_token_timeout"),  # left by a server that hung while stopping
    }


async def test_the_text_of_a_moved_system_prompt_is_only_on_the_page(
    daemon, vllm_servers, tmp_path
):
    server = await asyncio.to_thread(
        vllm_servers.start,
        *("--block-size", "32", "--enable-prompt-tokens-details", "--chat-template", str(MOVING)),
    )
    log = tmp_path / "log"
    try:
        async with daemon(log, VLLM_HOST=server.url) as at:
            await at.until("a session ended", at.sessions)
            assert await at.value("vllm_probe_prefix_stable", scenario="coding-agent") == 0
            assert await at.value("vllm_probe_notice", notice="prefix_unstable") == 1
            for turn in range(3, 9):
                assert await at.value("vllm_probe_turn_ideal_hit_ratio", turn=str(turn)) < 0.5
                assert await at.value("vllm_probe_turn_efficiency_ratio", turn=str(turn)) == 1
            assert "in message 1 (system)" in (await at.get("/"))[1]
            assert "careful software" not in (await at.get("/metrics"))[1]
    finally:
        server.stop()
    assert "careful software" not in log.read_text()
