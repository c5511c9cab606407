"""Losses caused on a real vLLM with a cache of 64 blocks, and the causes that are found."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from scraper_bench import requests_to

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.model.session import LossCause
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.model import Scenario, ScenarioKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from exporter.model.session import SessionResult

pytestmark = pytest.mark.vllm

BLOCK, BLOCKS = 32, 64
FLAGS = (
    *("--block-size", str(BLOCK), "--num-gpu-blocks-override", str(BLOCKS)),
    *("--max-model-len", "1024", "--enable-prompt-tokens-details"),
)
DEADLINES = Deadlines(connect=5, first_token=60, between_tokens=60, whole=120)
ANSWER_TOKENS = 16


def say(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


STEPS = (
    (
        {"role": "system", "content": "You answer questions about a small shop. " * 8},
        say("Which orders came in today?"),
    ),
    *((say(f"And what of order {n}? It has several lines, say all. " * 3),) for n in range(2, 6)),
)
KIND = ScenarioKind("small", lambda _padding: Scenario("small", (), STEPS))


@pytest.fixture(scope="module")
def small_server(vllm_servers) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")  # serves /reset_prefix_cache
        server = vllm_servers.start(*FLAGS)
        yield server
        server.stop()


@dataclass
class Bench:
    client: EngineClient
    runner: SessionRunner
    salts: Iterator[str]

    async def play(self, turn: int, act: Callable[[], Awaitable[None]]) -> SessionResult:
        """Play the session, and call `act` before the request of turn `turn`."""
        chat, turns = self.client.chat, 0

        async def disturbed(request: ChatRequest, *arguments: Any) -> Any:
            nonlocal turns
            if request.max_tokens == ANSWER_TOKENS:
                turns += 1
                if turns == turn:
                    await act()
            return await chat(request, *arguments)

        self.client.chat = disturbed  # type: ignore[method-assign]
        try:
            return await self.runner.play()
        finally:
            self.client.chat = chat  # type: ignore[method-assign]

    async def others(self, sessions: int) -> int:
        """Send that many prompts of others, each under its own salt. Returns the full blocks of each."""
        blocks = 0
        for _ in range(sessions):
            request = ChatRequest("tiny", [say("Other people ask too. " * 42)], 1, next(self.salts))
            answer = await self.client.chat(request, DEADLINES)
            assert answer.failure is None
            assert answer.usage is not None
            blocks = answer.usage.prompt_tokens // BLOCK
        return blocks


@contextlib.asynccontextmanager
async def bench_of(url: str) -> AsyncIterator[Bench]:
    fresh = secrets.token_hex(8)  # the server keeps running, and no salt may repeat
    salts = iter([f"losses-{fresh}-{n}" for n in range(1000)])
    async with EngineClient(url) as client:
        plan = SessionPlan(
            "t", KIND, ANSWER_TOKENS, DEADLINES, opening=lambda unit, _capacity: unit
        )
        runner = SessionRunner(plan, requests_to(client), lambda: next(salts))
        yield Bench(client, runner, salts)


def losses(result: SessionResult) -> dict[int, LossCause]:
    assert result.failure is None, result.failure
    return {turn.index: turn.loss.cause for turn in result.turns if turn.loss}


async def test_foreign_sessions_evict_the_tail_first_and_the_loss_is_what_the_blocks_say(
    small_server,
):
    """As recorded: four sessions of about 12 blocks leave it whole, five take its tail, seven all.

    The oracle counts blocks: one of the 64 is the null block, the session holds its full blocks,
    each foreign prompt takes its full blocks, and the last one's partial block one more.
    """
    seen = []
    for sessions in (3, 4, 5, 7):
        async with bench_of(small_server.url) as at:
            foreign = 0

            async def crowd(count: int = sessions, bench: Bench = at) -> None:
                nonlocal foreign
                foreign = await bench.others(count)

            result = await at.play(5, crowd)
        fourth, fifth = result.turns[3], result.turns[4]
        held = (fourth.prompt_tokens + ANSWER_TOKENS - 1) // BLOCK
        evicted = min(held, max(0, sessions * foreign + 1 - (BLOCKS - 1 - held)))
        assert fifth.ideal_cached_tokens == held * BLOCK
        assert fifth.cached_tokens == (held - evicted) * BLOCK
        assert losses(result) == ({5: LossCause.EVICTED} if evicted else {})
        if evicted:
            assert fifth.loss.tokens == evicted * BLOCK
        seen.append((sessions, fifth.cached_tokens, fifth.ideal_cached_tokens))
    assert seen[1][1] == seen[1][2], seen
    assert 0 < seen[2][1] < seen[2][2], seen
    assert seen[3][1] == 0, seen


async def test_a_cache_that_is_reset_between_two_turns_is_called_reset(small_server):
    async def reset() -> None:
        url = f"{small_server.url}/reset_prefix_cache"
        request = urllib.request.Request(url, method="POST")
        with await asyncio.to_thread(urllib.request.urlopen, request, timeout=30) as answer:
            assert answer.status == 200

    async with bench_of(small_server.url) as at:
        result = await at.play(4, reset)
    assert losses(result) == {4: LossCause.RESET}
    assert result.turns[3].cached_tokens == 0
    assert result.turns[4].efficiency_ratio == 1.0
    assert result.extra_tokens > 0


async def test_a_server_restarted_between_two_turns_lost_them_to_the_restart(
    small_server, vllm_servers
):
    port = int(small_server.url.rpartition(":")[2])
    again = []

    async def restart() -> None:
        small_server.stop()
        again.append(await asyncio.to_thread(vllm_servers.start, *FLAGS, port=port))

    try:
        async with bench_of(small_server.url) as at:
            result = await at.play(3, restart)
    finally:
        for server in again:
            server.stop()
    assert losses(result) == {3: LossCause.RESTART}
    assert result.turns[3].efficiency_ratio == 1.0
