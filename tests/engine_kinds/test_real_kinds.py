"""Real engines that reuse less than a plain one: their rule is found, and a real loss is still seen.

TEST_ENGINE_KINDS names the kinds, separated by spaces; the default is one of each rule.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import urllib.request
from typing import TYPE_CHECKING

import pytest
from scraper_bench import requests_to
from served import run_command

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import Deadlines
from exporter.model.reuse import RuleCause
from exporter.model.session import LossCause
from exporter.probe.session.plan import SessionHooks, SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from vllm_server import Server, VllmServers

    from exporter.model.session import SessionResult

pytestmark = pytest.mark.vllm

DEADLINES = Deadlines(connect=5, first_token=300, between_tokens=300, whole=600)
SESSIONS = 3
RULES = {
    "plain": {"unit_tokens": 32, "dropped_blocks": 0, "answers_kept": True},
    "eagle": {"unit_tokens": 32, "dropped_blocks": 1, "answers_kept": True},
    "gemma3": {"unit_tokens": 32, "dropped_blocks": 0, "answers_kept": False},
    "gemma4": {"unit_tokens": 64, "dropped_blocks": 0, "answers_kept": False},
    "swa": {"unit_tokens": 32, "dropped_blocks": 0, "answers_kept": False},
    "qwen3-next": {"unit_tokens": 256, "dropped_blocks": 0},
    "qwen3-next-32": {"unit_tokens": 32, "dropped_blocks": 0, "answers_kept": False},
}
"""The parts of the rule of each kind that a session of short answers shows."""
KINDS = os.environ.get("TEST_ENGINE_KINDS", "eagle gemma3 qwen3-next").split()
RESTARTED_KINDS = KINDS if "TEST_ENGINE_KINDS" in os.environ else ["eagle"]
"""Each takes two more starts of a minute."""
SMALL_CACHE = {"gemma3": "160", "gemma4": "160", "swa": "96", "qwen3-next": "64"}
"""Blocks that hold one prompt of the small context and not much more; 64 where layers are alike."""
SMALL_CONTEXT = 1984
FOREIGN_TOKENS = 1800
RESET_BEFORE = 5  # the turn before which the cache is emptied


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(vllm_servers: VllmServers, kind: str) -> Iterator[Server]:
    """A server of that kind whose cache a request can empty."""
    server = vllm_servers.start_kind(kind, VLLM_SERVER_DEV_MODE="1")
    yield server
    server.stop()


@contextlib.asynccontextmanager
async def runner_of(url: str) -> AsyncIterator[SessionRunner]:
    async with EngineClient(url, timeout_seconds=60) as client:
        plan = SessionPlan("t", CODING_AGENT, 32, DEADLINES)
        yield SessionRunner(plan, requests_to(client), lambda: secrets.token_hex(16))


def unlike_the_rule(result: SessionResult, kind: str) -> dict[str, object]:
    """The parts of the learned rule that are not those of the kind."""
    rule = result.reuse_rule
    assert rule is not None
    return {
        name: getattr(rule, name)
        for name, right in RULES.get(kind, {}).items()
        if getattr(rule, name) != right
    }


async def test_a_sound_engine_attains_all_that_its_rule_lets_it_serve(engine, kind):
    async with runner_of(engine.url) as runner:
        played = [await runner.play() for _ in range(SESSIONS)]
    for result in played:
        assert result.failure is None
        assert [turn.loss for turn in result.turns] == [None] * len(result.turns)
        for turn in result.turns[1:]:
            assert turn.cached_tokens == turn.attainable_cached_tokens
            assert turn.ideal_cached_tokens is not None
            given_up = sum(part.tokens for part in turn.rule_losses)
            assert turn.ideal_cached_tokens - turn.attainable_cached_tokens == given_up
            assert turn.efficiency_ratio in (1.0, None)
        assert unlike_the_rule(result, kind) == {}
    assert any(turn.efficiency_ratio == 1.0 for turn in played[0].turns)


async def test_a_cache_emptied_between_two_turns_is_a_loss_beside_what_the_rule_gives_up(
    engine, kind
):
    def before_turn(index: int, _turns: int) -> None:
        if index == RESET_BEFORE:
            asked = urllib.request.Request(f"{engine.url}/reset_prefix_cache", method="POST")
            urllib.request.urlopen(asked, timeout=60).close()

    async with runner_of(engine.url) as runner:
        await runner.play()
        result = await runner.play(SessionHooks(on_turn_start=before_turn))
    lost = {turn.index: turn.loss for turn in result.turns if turn.loss is not None}
    assert set(lost) == {RESET_BEFORE}
    assert lost[RESET_BEFORE].cause is LossCause.RESET
    turn = result.turns[RESET_BEFORE - 1]
    assert lost[RESET_BEFORE].tokens == turn.attainable_cached_tokens
    assert unlike_the_rule(result, kind) == {}
    others = [turn for turn in result.turns[1:] if turn.index != RESET_BEFORE]
    assert all(turn.cached_tokens == turn.attainable_cached_tokens for turn in others)
    assert {part.cause for turn in result.turns for part in turn.rule_losses} <= set(RuleCause)


@pytest.mark.parametrize("restarted", RESTARTED_KINDS)
async def test_a_restart_between_two_turns_is_a_loss_of_all_that_the_rule_let_it_serve(
    vllm_servers, restarted
):
    server = vllm_servers.start_kind(restarted)
    port = int(server.url.rsplit(":", 1)[1])
    servers = [server]

    def before_turn(index: int, _turns: int) -> None:
        if index == RESET_BEFORE:
            servers[0].stop()
            servers[0] = vllm_servers.start_kind(restarted, port=port)

    try:
        async with runner_of(server.url) as runner:
            await runner.play()
            result = await runner.play(SessionHooks(on_turn_start=before_turn))
    finally:
        servers[0].stop()
    assert result.failure is None
    (lost,) = [turn for turn in result.turns if turn.loss is not None]
    assert lost.index == RESET_BEFORE
    assert lost.loss is not None
    assert lost.loss.cause is LossCause.RESTART
    assert lost.cached_tokens == 0


@pytest.mark.parametrize("small", RESTARTED_KINDS)
async def test_a_cache_that_others_fill_is_a_loss_by_eviction_beside_what_the_rule_gives_up(
    vllm_servers, small
):
    blocks = SMALL_CACHE.get(small, "64")
    server = vllm_servers.start_kind(
        small, "--num-gpu-blocks-override", blocks, MAX_LEN=str(SMALL_CONTEXT)
    )

    def before_turn(index: int, turns: int) -> None:
        if index == turns:
            ask(server.url, [100 + token % 1000 for token in range(FOREIGN_TOKENS)])

    try:
        async with runner_of(server.url) as runner:
            sound = await runner.play()
            result = await runner.play(SessionHooks(on_turn_start=before_turn))
    finally:
        server.stop()
    assert [turn.loss for turn in sound.turns] == [None] * len(sound.turns)
    *others, last = result.turns
    assert [turn.loss for turn in others] == [None] * len(others)
    assert last.loss is not None
    assert last.loss.cause is LossCause.EVICTED
    assert "other requests used 0" not in last.loss.evidence


def ask(url: str, prompt: list[int]) -> None:
    """A request of another client, as token ids, answered with one token."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 1}
    asked = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(asked, timeout=300).close()


def test_check_finds_nothing_wrong_and_shows_the_rule(engine, kind):
    result = run_command("check", "--url", engine.url, "--json")
    tests = {test["name"]: test for test in result.json["tests"]}
    assert {name for name, test in tests.items() if test["verdict"] != "pass"} == set()
    assert result.code == 0
    unit = RULES.get(kind, {}).get("unit_tokens")
    assert unit is None or f"multiples of {unit} tokens" in tests["reuse_rule"]["evidence"]
