"""A real vLLM that reports less than it could: what is still exact."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any

import pytest
from engine_proxy import engine_proxy, without_token_ids
from ideals import ideal_of
from scraper_bench import requests_to

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import Deadlines
from exporter.model.chat import CachedTokensSource
from exporter.model.session import Notice
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.vllm

DEADLINES = Deadlines(connect=5, first_token=120, between_tokens=120, whole=240)
BLOCK = 32


@contextlib.asynccontextmanager
async def runner_of(url: str, *, counters: bool = False) -> AsyncIterator[SessionRunner]:
    async with EngineClient(url, timeout_seconds=30) as client:
        plan = SessionPlan("t", CODING_AGENT, 12, DEADLINES)
        requests = requests_to(client, from_counters=counters)
        yield SessionRunner(plan, requests, lambda: secrets.token_hex(16))


async def test_the_counters_of_an_idle_server_give_each_turns_cached_tokens(vllm_servers):
    async with runner_of(vllm_servers.get("plain32"), counters=True) as runner:
        result = await runner.play()
    assert result.failure is None
    assert result.turns[0].cached_tokens == 0
    for turn in result.turns[1:]:
        assert turn.cached_tokens_source is CachedTokensSource.COUNTERS
        assert turn.cached_tokens == turn.ideal_cached_tokens > 0
        assert turn.efficiency_ratio == 1.0
    assert result.notices == {Notice.CACHED_FROM_COUNTERS}


async def test_without_the_setting_the_same_server_has_no_hit_ratio(vllm_servers):
    async with runner_of(vllm_servers.get("plain32")) as runner:
        result = await runner.play()
    assert {turn.hit_ratio for turn in result.turns} == {None}
    assert result.notices == {Notice.USAGE_DETAILS_MISSING}


class Recorder:
    """Takes the token ids out of each stream, and keeps them."""

    def __init__(self) -> None:
        self.prompts: dict[str, tuple[int, ...]] = {}
        self.answers: dict[str, list[int]] = {}

    def edit(self, chunk: dict[str, Any]) -> dict[str, Any]:
        stream = chunk["id"]
        if chunk.get("prompt_token_ids"):
            self.prompts[stream] = tuple(chunk["prompt_token_ids"])
        for choice in chunk["choices"]:
            self.answers.setdefault(stream, []).extend(choice.get("token_ids") or [])
        return without_token_ids(chunk)

    def ideals(self, streams: list[str]) -> list[int]:
        """The ideal by the ids that the proxy took out."""
        computed: list[tuple[int, ...]] = []
        ideals = []
        for stream in streams:
            prompt = self.prompts[stream]
            ideals.append(ideal_of(prompt, computed, BLOCK))
            computed.append(prompt + tuple(self.answers[stream][:-1]))
        return ideals


async def test_the_ideal_is_the_same_without_token_ids_in_the_stream(vllm_servers):
    recorder = Recorder()
    url = vllm_servers.get("details32")
    async with (
        engine_proxy(lambda _path: url, recorder.edit) as proxy,
        runner_of(proxy) as runner,
    ):
        first, second = await runner.play(), await runner.play()
    streams = list(recorder.prompts)
    assert len(streams) == 16
    assert first.failure is None
    expected = recorder.ideals(streams[:8]), recorder.ideals(streams[8:])
    # The first answer's ids were not requested. They count only if it completes a block, less
    # its last token, of which the engine computes nothing.
    prompt, answer = first.turns[0].prompt_tokens, first.turns[0].completion_tokens
    matters = prompt // BLOCK != (prompt + answer - 1) // BLOCK
    assert first.turns[1].ideal_cached_tokens == (None if matters else expected[0][1])
    assert [turn.ideal_cached_tokens for turn in first.turns][2:] == expected[0][2:]
    assert [turn.ideal_cached_tokens for turn in second.turns] == expected[1]
    assert all(turn.cached_tokens == turn.ideal_cached_tokens for turn in second.turns)
    assert second.notices == {Notice.TOKEN_IDS_RECOVERED}
