"""Real engines that reuse less than a plain one: their rule is found, and a real loss is still seen.

TEST_ENGINE_KINDS names the kinds, separated by spaces; the default is one of each rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from scraper_bench import requests_to
from served import run_command
from vllm_server import kind_command

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import Deadlines
from exporter.model.failure import FailureReason
from exporter.model.reuse import RuleCause
from exporter.model.session import LossCause
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from real_engines.faults import DEV_MODE, TURN, Interruption, empty_cache, play_faults
from real_engines.recipes import Recipe, SmallCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from vllm_server import Server, VllmServers

    from exporter.model.session import SessionResult
    from exporter.probe.engine_requests import EngineRequests
    from real_engines.faults import Played

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
GIVES_UP_EACH_TURN = {"eagle"}
KINDS = os.environ.get("TEST_ENGINE_KINDS", "eagle gemma3 qwen3-next").split()
KINDS_WITH_FAULTS = KINDS if "TEST_ENGINE_KINDS" in os.environ else ["eagle"]
"""Each takes two more starts of a minute."""
SMALL_CONTEXT = 1984
SMALL_BLOCKS = {"gemma3": 384, "gemma4": 160, "swa": 66, "qwen3-next": 18, "qwen3-next-32": 18}
"""Blocks that hold one prompt of the small context and not much more; 64 where layers are alike."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(vllm_servers: VllmServers, kind: str) -> Iterator[Server]:
    """A server of that kind whose cache a request can empty."""
    server = vllm_servers.start_kind(kind, **DEV_MODE)
    yield server
    server.stop()


@contextlib.asynccontextmanager
async def runner_of(
    url: str, deadlines: Deadlines = DEADLINES
) -> AsyncIterator[tuple[SessionRunner, EngineRequests]]:
    async with EngineClient(url, timeout_seconds=60) as client:
        plan, requests = SessionPlan("t", CODING_AGENT, 32, deadlines), requests_to(client)
        yield SessionRunner(plan, requests, lambda: secrets.token_hex(16)), requests


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
    async with runner_of(engine.url) as (runner, _):
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
    async with runner_of(engine.url) as (runner, requests):
        await runner.play()
        reset = Interruption(lambda: empty_cache(engine.url), TURN)
        result = await reset.play(runner, requests)
    check_loss(result, TURN, LossCause.RESET, kind)
    assert result.turns[TURN - 1].cached_tokens == 0


async def test_a_paused_engine_is_told_from_one_that_hangs_and_plays_on_when_it_resumes(engine):
    """Requests wait in it, and /health answers."""
    async with runner_of(engine.url, replace(DEADLINES, first_token=5)) as (runner, requests):
        pause = Interruption(lambda: post(engine.url, "pause"), TURN)
        result = await pause.play(runner, requests)
        assert await requests.client.healthy()
        await asyncio.to_thread(post, engine.url, "resume")
    assert result.failure is not None
    assert (result.failure.reason, result.failed_turn) == (FailureReason.PAUSED, TURN)
    async with runner_of(engine.url) as (runner, requests):
        assert await requests.client.rest() is None
        assert (await runner.play()).failure is None


def post(url: str, path: str) -> None:
    request = urllib.request.Request(f"{url}/{path}", method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def check_loss(result: SessionResult, turn: int, cause: LossCause, kind: str) -> None:
    """One turn has a loss with this cause: what the rule let the engine serve and it did not.

    What the rule gives up stands beside it, and the rule is that of the kind.
    """
    assert result.failure is None
    assert [one.index for one in result.turns if one.loss is not None] == [turn]
    for one in result.turns[1:]:
        assert one.cached_tokens is not None
        assert one.attainable_cached_tokens is not None
        assert one.ideal_cached_tokens is not None
        lost = 0 if one.loss is None else one.loss.tokens
        given_up = sum(part.tokens for part in one.rule_losses)
        assert lost == one.attainable_cached_tokens - one.cached_tokens
        assert given_up == one.ideal_cached_tokens - one.attainable_cached_tokens
        assert given_up > 0 or kind not in GIVES_UP_EACH_TURN
    lost_turn = result.turns[turn - 1]
    assert lost_turn.loss is not None
    assert lost_turn.loss.cause is cause
    assert unlike_the_rule(result, kind) == {}
    assert {part.cause for one in result.turns for part in one.rule_losses} <= set(RuleCause)


@pytest.fixture(scope="module", params=KINDS_WITH_FAULTS)
def faulty_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def faults(faulty_kind: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played]:
    """The session with each fault, after one without."""
    prompts = 2 if faulty_kind == "swa" else 1
    small = SmallCache(SMALL_CONTEXT, SMALL_BLOCKS.get(faulty_kind, 64), prompts)
    command = f"env HOST=127.0.0.1 PORT={{port}} {kind_command()} {faulty_kind}"
    recipe = Recipe(faulty_kind, faulty_kind, command=command, small_cache=small)
    played = play_faults(recipe, small, tmp_path_factory.mktemp(faulty_kind))
    for one in played:
        losses = [turn.loss for turn in one.result.turns]
        assert one.turn is not None or losses == [None] * len(losses)
    return {one.fault: one for one in played}


def test_a_restart_between_two_turns_is_a_loss_of_all_that_the_rule_let_it_serve(
    faults, faulty_kind
):
    result = faults["restart"].result
    check_loss(result, TURN, LossCause.RESTART, faulty_kind)
    lost = result.turns[TURN - 1]
    assert lost.cached_tokens == 0
    assert lost.loss.tokens == lost.attainable_cached_tokens > 0


def test_a_cache_that_others_fill_is_a_loss_by_eviction_beside_what_the_rule_gives_up(
    faults, faulty_kind
):
    result = faults["eviction"].result
    last = result.turns[-1]
    check_loss(result, last.index, LossCause.EVICTED, faulty_kind)
    assert last.loss.tokens > 0
    assert "other requests used 0" not in last.loss.evidence
    assert faults["eviction"].known == result.reuse_rule


def test_check_finds_nothing_wrong_and_shows_the_rule(engine, kind):
    result = run_command("check", "--url", engine.url, "--json")
    tests = {test["name"]: test for test in result.json["tests"]}
    assert {name for name, test in tests.items() if test["verdict"] != "pass"} == set()
    assert result.code == 0
    unit = RULES.get(kind, {}).get("unit_tokens")
    assert unit is None or f"multiples of {unit} tokens" in tests["reuse_rule"]["evidence"]
