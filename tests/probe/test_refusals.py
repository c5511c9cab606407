"""Servers that refuse a field, name no context length, or close a connection after a prompt."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from scraper_bench import requests_to

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.model.failure import FailureReason
from exporter.model.session import ControlOutcome, Notice
from exporter.probe.check import Check
from exporter.probe.isolation import run_isolation_test
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.runner import SessionRunner
from exporter.simulator.engine_kinds.settings import SimulatorSettings
from exporter.wording.findings.finding import Verdict
from exporter.wording.findings.isolation import of_isolation, of_wedge

PATIENT = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)


NUMBERS = itertools.count()


def salts():
    return lambda: f"another-salt-{next(NUMBERS)}"


def runner(at, client, **more):
    return SessionRunner(at.plan, requests_to(client), salts(), **more)


async def tried(client):
    return await run_isolation_test(requests_to(client), await client.info(), PATIENT, salts())


# A salt that is refused


async def test_a_v0_engine_that_refuses_the_salt_is_still_measured(bench):
    async with bench(like="vllm-0.9.2-v0") as at:
        first, second = await at.play(), await at.play()
        assert len(at.simulator.engine.ranks) == 1
    for result in (first, second):
        assert result.failure is None
        assert len(result.turns) == 8
        assert result.nonce_in_prompt
        assert Notice.SALT_REFUSED in result.notices
        assert Notice.SALT_IGNORED not in result.notices
        assert all(turn.ttft_seconds > 0 for turn in result.turns)
        assert None not in [turn.ideal_cached_tokens for turn in result.turns]
    assert first.extra_tokens > 0, "the session started over with a nonce"
    assert second.extra_tokens == 0


async def test_a_strict_gateway_costs_no_hit_ratio_and_no_cold_control(bench):
    async with bench(like="strict-gateway") as at:
        control = ColdControl(1.0, lambda: 0.4, salts())
        playing = runner(at, at.client, control=control)
        results = [await playing.play() for _ in range(2)]
    for result in results:
        assert result.failure is None
        assert Notice.SALT_REFUSED in result.notices
        assert result.turns[0].cached_tokens == 0
        assert all(turn.cached_tokens > 0 for turn in result.turns[1:])
        assert all(turn.efficiency_ratio in (None, 1.0) for turn in result.turns)
        assert all(turn.loss is None for turn in result.turns)
        outcomes = {turn.control.outcome for turn in result.turns[1:]}
        assert outcomes == {ControlOutcome.COLD}


async def test_the_salt_is_tried_again_with_another_process(bench):
    async with bench(like="strict-gateway") as at:
        assert Notice.SALT_REFUSED in (await at.play()).notices
        at.simulator.clear()
        await at.simulator.engine.restart()
        result = await at.play()
    assert Notice.SALT_REFUSED not in result.notices
    assert not result.nonce_in_prompt


@pytest.mark.parametrize("name", ["strict-gateway", "vllm-0.9.2-v0"])
async def test_where_salts_are_refused_isolation_is_unknown_and_no_leak(bench, name):
    async with bench(like=name) as at:
        test = await tried(at.client)
    assert test.salt_refused
    assert test.failure is None
    assert test.leaked is None
    isolation = of_isolation(test)
    assert isolation.verdict is Verdict.UNKNOWN
    assert "refuses cache_salt" in isolation.evidence
    assert of_wedge(test).verdict is Verdict.PASS


async def test_check_fails_no_test_of_an_engine_that_refuses_salts(bench):
    async with bench(like="vllm-0.9.2-v0") as at:
        report = await Check(at.plan, requests_to(at.client), salts()).run()
        found = {one.name: one for one in report.findings}
    assert found["second_turn"].verdict is not Verdict.FAIL
    assert found["token_ids"].verdict is Verdict.PASS
    for name in ("cold_start", "isolation"):
        assert found[name].verdict is Verdict.UNKNOWN
        assert "refuses cache_salt" in found[name].evidence


async def test_without_stream_options_times_are_known_and_tokens_are_not(bench):
    async with bench(like="no-stream-options") as at:
        result = await at.play()
    assert result.failure is None
    assert Notice.USAGE_MISSING in result.notices
    assert all(turn.ttft_seconds > 0 for turn in result.turns)
    assert all(turn.prompt_tokens is None for turn in result.turns)


# An unknown context length


async def test_a_context_that_no_card_names_is_learned_within_one_session(bench):
    async with bench(like="bare-model-card", max_model_len=800) as at:
        assert (await at.client.info()).max_model_len is None
        first, second = await at.play(), await at.play()
    for result in (first, second):
        assert result.failure is None
        assert Notice.SCENARIO_SHORTENED in result.notices
        assert len(result.turns) > 1
        assert all(turn.prompt_tokens < 800 for turn in result.turns)
        assert all(turn.efficiency_ratio == 1.0 for turn in result.turns[1:])
    assert first.extra_tokens > 0
    assert second.extra_tokens == 0


async def test_a_lora_adapter_is_played_with_its_parents_context(bench):
    async with bench(like="lora", max_model_len=800) as at:
        model = f"{SimulatorSettings().model}-lora"
        async with EngineClient(at.simulator.url, model=model) as client:
            result = await runner(at, client).play()
    assert result.failure is None
    assert result.model == model
    assert Notice.SCENARIO_SHORTENED in result.notices


@pytest.mark.parametrize("adapters", ["all", (f"{SimulatorSettings().model}-lora",)])
async def test_sessions_take_turns_with_a_model_and_its_adapters(bench, adapters):
    base, adapter = SimulatorSettings().model, f"{SimulatorSettings().model}-lora"
    async with bench(like="lora") as at:
        plan = replace(at.plan, adapters=adapters)
        sessions = SessionRunner(plan, at.requests, at.new_salt)
        results = [await sessions.play() for _ in range(4)]
    assert [result.model for result in results] == [base, adapter, adapter, base]
    for result in results:
        assert result.failure is None
        assert all(turn.efficiency_ratio == 1.0 for turn in result.turns[1:])


async def test_an_adapter_shares_no_cached_prefix_with_its_model(bench):
    async with bench(like="lora") as at:
        base = at.simulator.settings.model
        messages = [{"role": "user", "content": "one prompt for two models " * 40}]
        cached = {}
        for model in (base, f"{base}-lora", f"{base}-lora"):
            chat = await at.client.chat(ChatRequest(model, messages, 1, "salt"), PATIENT)
            cached.setdefault(model, []).append(chat.cached_tokens)
    assert cached[base] == [0]
    assert cached[f"{base}-lora"][0] == 0
    assert cached[f"{base}-lora"][1] > 0


async def test_an_adapter_that_is_not_served_fails_only_its_own_sessions(bench):
    async with bench(like="lora") as at:
        sessions = SessionRunner(replace(at.plan, adapters=("sql",)), at.requests, at.new_salt)
        first, second, _, fourth = [await sessions.play() for _ in range(4)]
    assert first.failure is fourth.failure is None
    assert second.failure.reason is FailureReason.MODEL_NOT_FOUND
    assert "'sql'" in second.failure.detail


# A prompt that the server may have computed twice


@contextlib.asynccontextmanager
async def closing_proxy(upstream, closes):
    """The URL of a proxy that sends chat request number n on, and closes where `closes(n)`: the
    engine has computed the prompt by then. `asked` is how many came.
    """
    asked = []
    async with aiohttp.ClientSession() as session:

        async def forward(request):
            body = await request.read()
            chat = request.path.endswith("/chat/completions")
            if chat:
                asked.append(request.path)
            headers = {"Content-Type": "application/json"}
            url = upstream + request.path
            async with session.request(request.method, url, data=body, headers=headers) as answer:
                page = await answer.read()
            if chat and closes(len(asked)):
                request.transport.abort()
            kind = answer.headers.get("Content-Type", "")
            return web.Response(body=page, status=answer.status, headers={"Content-Type": kind})

        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", forward)
        async with TestServer(app) as server:
            yield str(server.make_url("")).rstrip("/"), asked


async def test_a_session_with_a_prompt_that_was_sent_twice_starts_over(bench):
    async with bench() as at:
        async with (
            closing_proxy(at.simulator.url, lambda number: number == 4) as (url, asked),
            EngineClient(url) as client,
        ):
            result = await runner(at, client).play()
    assert len(asked) == 3 + 2 + 8
    assert result.failure is None
    assert result.turns[0].cached_tokens == 0
    assert all(turn.efficiency_ratio == 1.0 for turn in result.turns[1:])
    assert all(turn.loss is None for turn in result.turns)
    assert result.notices == {Notice.SIMULATED}
    assert not result.nonce_in_prompt
    assert result.extra_tokens > 0


async def test_a_prompt_that_was_sent_twice_is_no_leak(bench):
    """The third request, under a new salt, hits its own prefix."""
    async with bench() as at:
        async with (
            closing_proxy(at.simulator.url, lambda number: number == 3) as (url, asked),
            EngineClient(url) as client,
        ):
            test = await tried(client)
            sound = await tried(client)
    assert len(asked) == 4 + 3
    assert test.leaked is None
    assert test.failure.reason is FailureReason.STREAM_CUT
    assert of_isolation(test).verdict is Verdict.UNKNOWN
    assert of_isolation(sound).verdict is Verdict.PASS


async def test_a_control_that_was_sent_twice_is_none(bench):
    async with bench() as at:
        chat = at.client.chat

        async def twice(request, *arguments, **named):
            if not request.cache_salt.startswith("another"):
                return await chat(request, *arguments, **named)
            await chat(request, *arguments, **named)
            return replace(await chat(request, *arguments, **named), sent_twice=True)

        at.client.chat = twice
        control = ColdControl(1.0, lambda: 0.4, salts())
        at.runner._control = control
        result = await at.play()
    assert result.failure is None
    for turn in result.turns[1:]:
        assert turn.control.outcome is ControlOutcome.FAILED
        assert turn.cold_ttft_seconds is None
