"""What is concluded of engines as people run them, each one of the simulator's kinds: no loss has a
cause that the evidence rules out, and nothing sound is called broken.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from scraper_bench import requests_to

from exporter.engine.wire.request import ChatRequest
from exporter.errors import EngineUnavailableError
from exporter.model.failure import Failure, FailureReason
from exporter.model.reuse import RuleCause
from exporter.model.session import LossCause, Notice
from exporter.probe.check import Check
from exporter.probe.isolation import run_isolation_test
from exporter.probe.session.cold_control import ColdControl
from exporter.simulator.faults import faults
from exporter.wording.findings.finding import Verdict
from exporter.wording.findings.isolation import of_isolation, of_wedge
from exporter.wording.findings.session import of_engines, of_second_turn

PASS, FAIL, UNKNOWN = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN
SMALL = {"num_blocks": 20_000}  # enough for a label of 4 tokens, too


async def examine(at):
    report = await Check(at.plan, requests_to(at.client), at.new_salt).run()
    return {one.name: one for one in report.findings}


async def salt_test(at, least_tokens=0):
    info, deadlines = await at.client.info(), at.plan.deadlines
    return await run_isolation_test(
        at.requests, info, deadlines, at.new_salt, least_tokens=least_tokens
    )


def refused(words):
    return Failure(FailureReason.BAD_REQUEST, words)


def causes(*results):
    return {turn.loss.cause for result in results for turn in result.turns if turn.loss}


# Engines that give up tokens by their reuse rule


@pytest.mark.parametrize(
    ("like", "given_up"),
    [
        ("eagle", {RuleCause.SPECULATIVE_DECODING}),
        ("eagle-hybrid", {RuleCause.UNIT, RuleCause.SPECULATIVE_DECODING}),
        ("sliding-window", {RuleCause.ANSWER_NOT_KEPT}),
        ("hybrid-528", {RuleCause.UNIT}),
        ("label-4", {RuleCause.UNIT}),
    ],
)
async def test_what_the_reuse_rule_gives_up_is_no_loss(bench, like, given_up):
    async with bench(like=like, **SMALL) as at:
        results = [await at.play() for _ in range(3)]
        found = await examine(at)
    assert causes(*results) == set()
    assert {one.name for one in found.values() if one.verdict is FAIL} == set()
    later = [turn for result in results for turn in result.turns[1:]]
    assert {turn.efficiency_ratio for turn in later} == {1.0}
    assert {part.cause for turn in later for part in turn.rule_losses} == given_up
    for turn in later:
        parts = sum(part.tokens for part in turn.rule_losses)
        assert parts == turn.ideal_cached_tokens - turn.cached_tokens


@pytest.mark.parametrize(("like", "unit"), [("hybrid-528", 528), ("label-4", 256)])
async def test_three_hits_show_the_unit_and_settle_the_turns_before(bench, like, unit):
    live = []
    async with bench(like=like, **SMALL) as at:
        first, second = await at.play(live.append), await at.play()
        found = await examine(at)
    assert [turn.attainable_cached_tokens for turn in live[1:3]] == [None, None]
    for result in (first, second):
        assert causes(result) == set()
        for turn in result.turns[1:]:
            assert turn.attainable_cached_tokens == turn.cached_tokens
            assert turn.attainable_cached_tokens <= turn.ideal_cached_tokens
    assert Notice.MATCH_UNIT_DIFFERS in second.notices
    assert second.reuse_rule.unit_tokens == unit
    assert second.turns[0].prompt_tokens > 8 * unit, "the scenario is as long in true units"
    assert f"multiples of {unit} tokens" in found["match_unit"].evidence


async def test_a_unit_that_was_learned_hides_no_loss(bench):
    async with bench(like="hybrid-528", **SMALL) as at:
        await at.play()
        before = await at.play(
            lambda facts: at.simulator.engine.reset_prefix_cache() if facts.index == 4 else None
        )
    assert causes(before) == {LossCause.RESET}


# A hit only at the third request


async def test_an_engine_that_hits_late_has_neither_stopped_nor_lost_its_cache(bench):
    async with bench(like="late-hits") as at:
        results = [await at.play() for _ in range(3)]
        test = await salt_test(at)
        found = await examine(at)
    assert causes(*results) == set()
    assert all(Notice.REUSE_RULE_UNKNOWN in result.notices for result in results)
    assert not any(Notice.CACHE_WEDGED in result.notices for result in results)
    assert test.same_salt_cached == 0
    assert test.third_cached > 0
    assert test.possible is None
    for wedge in (of_wedge(test), found["wedge"]):
        assert wedge.verdict is UNKNOWN
        assert "when it was sent a third time: nothing has stopped" in wedge.evidence
    assert not any("emptied" in one.evidence for one in found.values())


@pytest.mark.parametrize("hit_before", [True, False])
async def test_an_isolation_test_whose_cache_is_emptied_each_time_finds_no_wedge(bench, hit_before):
    """Only overlapping requests can tell."""
    async with bench(time_scale=1.0) as at:
        if hit_before:
            await at.play()
        chat, sent = at.client.chat, []

        async def disturbed(request, *arguments):
            sent.append(request)
            if 1 < len(sent) < 5:
                assert at.simulator.engine.reset_prefix_cache()
            return await chat(request, *arguments)

        at.client.chat = disturbed
        test = await salt_test(at)
    assert (test.same_salt_cached, test.third_cached) == (0, 0)
    assert test.overlap_cached == test.possible
    wedge = of_wedge(test)
    assert wedge.verdict is UNKNOWN
    assert "something emptied the cache" in wedge.evidence
    assert of_isolation(test).verdict is PASS


# Transfers


@pytest.mark.parametrize("like", ["pd-decode", "pd-decode-all"])
async def test_a_transfer_is_no_hit_anywhere(bench, like):
    async with bench(like=like) as at:
        numbers = iter(f"control-{number}" for number in range(1000))
        at.runner._control = ColdControl(1.0, lambda: 0.4, lambda: next(numbers))
        results = [await at.play(), await at.play()]
        test = await salt_test(at)
        found = await examine(at)
    for result in results:
        assert result.notices >= {Notice.TRANSFER}
        assert not result.notices & {
            *(Notice.SALT_IGNORED, Notice.FIRST_TURN_NOT_COLD, Notice.HIT_BEYOND_IDEAL),
            *(Notice.USAGE_DETAILS_MISSING, Notice.CACHED_TOKENS_UNKNOWN, Notice.CACHE_WEDGED),
        }
        for turn in result.turns:
            assert turn.cached_tokens is turn.hit_ratio is turn.tokens_saved is turn.loss is None
            assert turn.ttft_seconds is not None
            assert turn.control is None or turn.ttft_saved_seconds is None
    assert not results[1].nonce_in_prompt, "known from the session before"
    assert test.transfer
    assert test.leaked is None
    for finding in (of_isolation(test), of_wedge(test)):
        assert finding.verdict is UNKNOWN
    assert {one.name for one in found.values() if one.verdict is FAIL} == set()
    assert "disaggregated" in found["isolation"].remedy


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("ids", [True, False])
async def test_transfers_that_begin_with_a_later_turn_are_no_hits_either(bench, missing, ids):
    """As on a decode node that computes short prompts itself."""
    async with bench() as at:
        chat = at.client.chat
        if not ids:
            at.simulator.inject(faults.NoTokenIds())
            at.simulator.inject(faults.NoTokenize())

        async def transferred(request, *arguments):
            answer = await chat(request, *arguments)
            prompt = answer.usage.prompt_tokens
            if len(request.messages) < 5:
                return answer
            return replace(answer, usage=replace(answer.usage, cached_tokens=prompt - missing))

        at.client.chat = transferred
        result = await at.play()
    assert Notice.TRANSFER in result.notices
    assert Notice.HIT_BEYOND_IDEAL not in result.notices
    assert [turn.hit_ratio for turn in result.turns[2:]] == [None] * 6
    assert result.turns[1].cached_tokens > 0


async def test_a_salt_that_is_ignored_is_no_transfer(bench):
    async with bench() as at:
        at.simulator.inject(faults.IgnoreSalts())
        await at.play()
        result = await at.play()
        test = await salt_test(at)
    assert Notice.SALT_IGNORED in result.notices
    assert Notice.TRANSFER not in result.notices
    assert of_isolation(test).verdict is FAIL


# Usage that hides hits


@pytest.mark.parametrize("controls", [0.0, 1.0])
async def test_hits_that_something_on_the_way_hides_are_unreported(bench, controls):
    """Also with light traffic of others, and with the probe's own cold controls."""
    async with bench(like="rewrites-cached") as at:
        numbers = iter(f"control-{number}" for number in range(1000))
        at.runner._control = ColdControl(controls, lambda: 0.4, lambda: next(numbers))
        chat, others = at.client.chat, iter(range(1000))

        async def beside_a_user(request, *arguments):
            text = [{"role": "user", "content": f"Another user's question {next(others)}."}]
            user = ChatRequest("simulated", text, 1, "users")
            assert (await chat(user, at.plan.deadlines)).failure is None
            return await chat(request, *arguments)

        at.client.chat = beside_a_user
        results = [await at.play(), await at.play()]
        wedge = of_wedge(await salt_test(at, least_tokens=1024))
    assert causes(*results) == {LossCause.UNREPORTED}
    assert {turn.hit_ratio for result in results for turn in result.turns[1:]} == {None}
    assert not any(Notice.CACHE_WEDGED in result.notices for result in results)
    assert wedge.verdict is PASS
    assert "the cache works" in wedge.evidence


async def test_two_conversations_that_the_template_dates_are_not_identical(bench):
    async with bench(like="clock-in-template") as at:
        results = [await at.play(), await at.play()]
        wedge = of_wedge(await salt_test(at))
    assert causes(*results) <= {LossCause.UNEXPLAINED}
    assert all(not result.prefix.stable for result in results)
    assert wedge.verdict is UNKNOWN
    assert "different token ids" in wedge.evidence


# Lookups that are counted again


async def test_lookups_that_were_counted_again_evict_nothing(bench):
    async with bench(like="recounted-lookups") as at:
        await at.play()
        page = at.client.metrics
        counted = iter(range(2_000_000, 10**9, 2_000_000))

        async def metrics(url=None):
            """As below vLLM 0.27: it counts the lookups of a waiting request again at each step."""
            more, lines = next(counted), (await page()).decode().splitlines(keepends=True)
            for place, line in enumerate(lines):
                if line.startswith("vllm:prefix_cache_queries_total{"):
                    head, value = line.rsplit(" ", 1)
                    lines[place] = f"{head} {float(value) + more}\n"
            return "".join(lines).encode()

        at.client.metrics = metrics
        result = await at.play(
            lambda facts: at.simulator.engine.reset_prefix_cache() if facts.index == 3 else None
        )
    assert LossCause.EVICTED not in causes(result)
    assert result.turns[3].loss.cause is LossCause.RESET


# Chat templates without a system role


async def test_a_template_without_a_system_role_gets_no_system_message_and_a_notice(bench):
    async with bench(like="no-system-role") as at:
        sent, chat = [], at.client.chat

        async def watched(request, *arguments):
            sent.append([message["role"] for message in request.messages])
            return await chat(request, *arguments)

        at.client.chat = watched
        first, second = await at.play(), await at.play()
        test = await salt_test(at)
    for result in (first, second):
        assert result.failure is None
        assert Notice.SYSTEM_ROLE_REFUSED in result.notices
        assert all(turn.efficiency_ratio == 1.0 for turn in result.turns[1:])
    assert sum("system" in roles for roles in sent) == 1, "it is remembered"
    assert of_isolation(test).verdict is PASS
    assert of_wedge(test).verdict is PASS


@pytest.mark.parametrize(
    "words",
    [
        "System role not supported",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Only user and assistant roles are supported!",
        "'system' role is not supported by this model",
        "Unexpected message role: system",
        "This model does not support system messages",
    ],
)
async def test_the_system_message_is_dropped_after_any_wording_of_a_refusal(bench, words):
    async with bench() as at:
        chat = at.client.chat

        async def strict(request, *arguments):
            answer = await chat(request, *arguments)
            if request.messages[0]["role"] != "system":
                return answer
            return replace(answer, failure=refused(f"HTTP 400: {words}"), usage=None)

        at.client.chat = strict
        result = await at.play()
    assert result.failure is None
    assert Notice.SYSTEM_ROLE_REFUSED in result.notices


async def test_another_refusal_is_not_taken_for_one_of_the_system_role(bench):
    async with bench() as at:
        chat = at.client.chat

        async def strict(request, *arguments):
            answer = await chat(request, *arguments)
            return replace(answer, failure=refused("HTTP 400: temperature must be 1"), usage=None)

        at.client.chat = strict
        result = await at.play()
    assert result.failure.detail == "HTTP 400: temperature must be 1"
    assert Notice.SYSTEM_ROLE_REFUSED not in result.notices


# Routers


async def test_turns_that_a_router_spreads_do_not_pass_for_one_sound_engine(bench):
    """Each turn goes to another of three engines, and their metrics cannot be read."""
    async with contextlib.AsyncExitStack() as stack:
        benches = [await stack.enter_async_context(bench()) for _ in range(3)]
        at, order = benches[0], iter([0, 1, 2, 0, 1, 2, 0, 1])
        chats = [each.client.chat for each in benches]

        async def shuffled(request, *arguments):
            return await chats[next(order)](request, *arguments)

        async def unreadable():
            raise EngineUnavailableError("protocol", "a gateway has no such page")

        at.client.chat, at.client.metrics = shuffled, unreadable
        result = await at.play()
    assert [turn.cached_tokens for turn in result.turns[1:3]] == [0, 0]
    assert any(turn.cached_tokens for turn in result.turns)
    for finding in (of_engines(result), of_second_turn(result)):
        assert finding.verdict is UNKNOWN
        assert f"turn 2 hit 0 of {result.turns[1].prompt_tokens:,} tokens" in finding.evidence


async def test_shuffled_replicas_are_mixed(bench):
    async with bench(like="shuffled-replicas") as at:
        found = await examine(at)
    assert found["one_engine"].verdict is FAIL
    assert found["second_turn"].verdict is FAIL
    assert "mixed" in found["second_turn"].evidence
