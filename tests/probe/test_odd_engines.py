"""Engines that ignore salts, give no token ids or no usage details: what is still known of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scraper_bench import requests_to

from exporter.engine.wire.request import ChatRequest
from exporter.model.chat import CachedTokensSource
from exporter.model.session import BreakReason, ControlOutcome, LossCause, Notice
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.model import Scenario, ScenarioKind
from exporter.simulator.faults import faults
from exporter.wording.findings.finding import Verdict
from exporter.wording.findings.session import of_first_turn, of_prefix
from exporter.wording.session_json import session_json


def sent_by(at):
    """Copies of all requests from now on, as they were sent."""
    chat, sent = at.client.chat, []

    async def watched(request, *arguments):
        sent.append(replace(request, messages=list(request.messages)))
        return await chat(request, *arguments)

    at.client.chat = watched
    return sent


def heads(sent):
    """The first line of the first message of each request."""
    return [request.messages[0]["content"].split("\n")[0] for request in sent]


def cached(result):
    return [turn.cached_tokens for turn in result.turns]


def ideals(result):
    return [turn.ideal_cached_tokens for turn in result.turns]


# Salts


async def test_a_session_with_a_warm_first_turn_starts_over_with_a_nonce(bench):
    async with bench() as at:
        at.simulator.inject(faults.IgnoreSalts())
        first = await at.play()
        sent = sent_by(at)
        second = await at.play()
    assert Notice.SALT_IGNORED not in first.notices
    assert not first.nonce_in_prompt
    assert second.notices == {Notice.SIMULATED, Notice.SALT_IGNORED}
    assert second.nonce_in_prompt
    assert second.turns[0].cached_tokens == 0
    assert all(turn.efficiency_ratio == 1.0 for turn in second.turns[1:])
    assert len(sent) == 8 + 1, "only the first turn was sent twice"
    assert second.extra_tokens == first.turns[0].prompt_tokens + first.turns[0].completion_tokens
    assert session_json(second)["nonce_in_prompt"] is True
    assert "salt_ignored" in session_json(second)["notices"]


async def test_later_sessions_start_with_a_nonce_at_once(bench):
    async with bench() as at:
        at.simulator.inject(faults.IgnoreSalts())
        await at.play()
        await at.play()
        sent = sent_by(at)
        third, fourth = await at.play(), await at.play()
    assert len(sent) == 16
    assert len(set(heads(sent))) == 2
    assert len(set(heads(sent[:8]))) == 1, "the nonce stays the same within a session"
    for result in (third, fourth):
        assert (cached(result)[0], result.extra_tokens) == (0, 0)
        assert Notice.SALT_IGNORED in result.notices


async def test_an_engine_that_was_restarted_is_trusted_again_until_it_ignores_a_salt_again(bench):
    async with bench() as at:
        at.simulator.inject(faults.IgnoreSalts())
        await at.play()
        assert (await at.play()).nonce_in_prompt
        await at.simulator.engine.restart()
        assert not (await at.play()).nonce_in_prompt, "its cache is empty, so this one is cold"
        assert (await at.play()).nonce_in_prompt
        at.simulator.clear()
        await at.simulator.engine.restart()
        results = [await at.play() for _ in range(3)]
    assert not any(result.nonce_in_prompt for result in results)
    assert all(cached(result)[0] == 0 for result in results)


@pytest.mark.parametrize("settings", [{}, {"enable_prompt_tokens_details": False}])
@pytest.mark.parametrize("v0", [True, False])
async def test_a_version_that_does_not_know_salts_gets_a_nonce_and_no_salt_from_its_first_session(
    bench, v0, settings
):
    async with bench(version="0.8.5", v0=v0, **settings) as at:
        numbers = iter(f"control-{number}" for number in range(1000))
        at.runner._control = ColdControl(1.0, lambda: 0.4, lambda: next(numbers))
        sent = sent_by(at)
        results = [await at.play(), await at.play()]
    assert {request.cache_salt for request in sent} == {None}
    assert len(set(heads(sent))) == 2 * (1 + 7), "one of a session, one of each cold control"
    for result in results:
        assert result.failure is None
        assert result.nonce_in_prompt
        assert Notice.SALT_IGNORED in result.notices
        assert of_first_turn(result).verdict is Verdict.UNKNOWN
        assert "vLLM 0.8.5 does not know cache_salt" in of_first_turn(result).evidence
    if v0 and not settings:
        assert [result.turns[0].cached_tokens for result in results] == [0, 0]


async def test_a_cold_control_is_cold_also_where_salts_do_nothing(bench):
    async with bench() as at:
        numbers = iter(f"control-{number}" for number in range(1000))
        at.runner._control = ColdControl(1.0, lambda: 0.4, lambda: next(numbers))
        at.simulator.inject(faults.IgnoreSalts())
        await at.play()
        result = await at.play()
    assert {turn.control.outcome for turn in result.turns[1:]} == {ControlOutcome.COLD}
    assert all(turn.efficiency_ratio == 1.0 for turn in result.turns[1:])


async def test_the_nonce_fits_the_context_too(bench):
    async with bench() as at:
        whole = (await at.play()).turns[-1]
    tight = whole.prompt_tokens + 8 * (16 + 8)
    async with bench(max_model_len=tight) as at:
        at.simulator.inject(faults.IgnoreSalts())
        await at.play()
        result = await at.play()
    assert result.failure is None
    assert result.nonce_in_prompt


async def test_a_nonce_goes_before_text_in_parts_too(bench):
    text = [{"type": "text", "text": "Read this. " * 60}]
    step = {"role": "user", "content": "Go on."}
    kind = ScenarioKind(
        "parts",
        lambda _padding: Scenario("parts", (), (({"role": "user", "content": text},), (step,))),
        padded=False,
    )
    async with bench() as at:
        at.runner._plan = replace(at.runner._plan, kind=kind)
        at.simulator.inject(faults.IgnoreSalts())
        await at.play()
        result = await at.play()
    assert result.nonce_in_prompt
    assert cached(result)[0] == 0 < cached(result)[1]


# Token ids


async def test_without_token_ids_the_ideal_stays_exact_by_tokenize_and_logprobs(bench):
    async with bench() as at:
        told = [await at.play(), await at.play()]
        at.simulator.inject(faults.NoTokenIds())
        sent = sent_by(at)
        recovered = [await at.play(), await at.play()]
    assert [ideals(one) for one in recovered[1:]] == [ideals(one) for one in told[1:]]
    assert ideals(recovered[0])[1] is None, (
        "the first answer came before the missing ids were known"
    )
    assert ideals(recovered[0])[2:] == ideals(told[0])[2:]
    assert recovered[1].notices == {Notice.SIMULATED, Notice.TOKEN_IDS_RECOVERED}
    assert recovered[1].prefix.stable
    assert [request.logprobs for request in sent[:2]] == [False, True]
    assert all(turn.loss is None for turn in recovered[1].turns)


async def test_an_engine_that_sends_ids_gets_no_further_request(bench):
    async with bench() as at:
        sent = sent_by(at)
        at.simulator.inject(faults.NoTokenize())
        result = await at.play()
    assert not any(request.logprobs for request in sent)
    assert result.notices == {Notice.SIMULATED}


async def test_logprobs_are_no_longer_requested_once_ids_come_again(bench):
    async with bench() as at:
        at.simulator.inject(faults.NoTokenIds())
        await at.play()
        at.simulator.clear()
        sent = sent_by(at)
        await at.play()
    assert [request.logprobs for request in sent] == [True] + [False] * 7


async def test_where_logprobs_are_refused_the_ideal_is_known_only_if_no_answer_can_change_it(bench):
    async with bench(block_size=48, max_model_len=32768) as at:
        told = await at.play()
        for fault in (faults.NoTokenIds(), faults.NoLogprobs()):
            at.simulator.inject(fault)
        sent = sent_by(at)
        known = await at.play()
    assert known.failure is None
    assert Notice.TOKEN_IDS_RECOVERED in known.notices
    assert len(sent) == 8 + 1, "one request was refused, and no later one asked for logprobs"
    pairs = list(zip(ideals(known), ideals(told), strict=True))
    assert all(mine in (None, exact) for mine, exact in pairs)
    assert any(mine for mine, _ in pairs[1:])
    assert any(mine is None for mine, _ in pairs[1:])
    assert all(turn.efficiency_ratio in (None, 1.0) for turn in known.turns)


@pytest.mark.parametrize("more", [faults.NoTokenize(), None])
async def test_prompts_without_known_ids_have_no_ideal(bench, more):
    async with bench() as at:
        at.simulator.inject(faults.NoTokenIds())
        if more is not None:
            at.simulator.inject(more)
        else:  # a tokenizer that disagrees with usage
            tokenize = at.client.tokenize

            async def one_more(*arguments):
                return (*(await tokenize(*arguments)), 1)

            at.client.tokenize = one_more
        result = await at.play()
    assert result.failure is None
    assert Notice.TOKEN_IDS_MISSING in result.notices
    assert ideals(result)[1:] == [None] * 7
    assert all(turn.efficiency_ratio is None and turn.loss is None for turn in result.turns)
    assert cached(result)[1] > 0, "the hit ratio needs no ids"
    assert result.prefix is None


async def test_a_rewritten_prompt_is_found_without_the_answers_ids(bench):
    async with bench() as at:
        for fault in (faults.NoTokenIds(), faults.NoLogprobs(), faults.MovingSystemPrompt()):
            at.simulator.inject(fault)
        result = await at.play()
    assert result.prefix.first_break.reason is BreakReason.SYSTEM_PROMPT_MOVED
    assert not result.prefix.stable
    assert all(ideal is not None for ideal in ideals(result)), (
        "the prompts differ before any answer"
    )


async def test_an_answer_cut_off_within_its_reasoning_is_reported_as_left_out(bench):
    async with bench() as at:
        chat = at.client.chat

        async def only_reasoning(request, *arguments):
            answer = await chat(request, *arguments)
            return replace(answer, message={"role": "assistant", "content": ""})

        at.client.chat = only_reasoning
        result = await at.play()
    assert result.prefix.first_break.reason is BreakReason.ANSWER_LEFT_OUT
    assert result.prefix.stable, "no fault of the template"
    assert Notice.PREFIX_UNSTABLE not in result.notices
    found = of_prefix(result)
    assert found.verdict is Verdict.PASS
    assert "The whole answer was reasoning" in found.evidence
    assert "max_tokens" in found.evidence


# Usage details


def by_counters(at):
    at.runner = SessionRunner(at.plan, requests_to(at.client, from_counters=True), at.new_salt)
    return at


async def test_on_an_idle_engine_the_counters_give_what_usage_leaves_out(bench):
    async with bench() as at:
        told = await at.play()
        at.simulator.inject(faults.NoUsageDetails())
        counted = await by_counters(at).play()
    assert cached(counted) == cached(told)
    assert {turn.cached_tokens_source for turn in counted.turns} == {CachedTokensSource.COUNTERS}
    assert {turn.cached_tokens_source for turn in told.turns} == {CachedTokensSource.USAGE}
    assert all(turn.efficiency_ratio == 1.0 for turn in counted.turns[1:])
    assert counted.notices == {Notice.SIMULATED, Notice.CACHED_FROM_COUNTERS}
    assert session_json(counted)["turns"][1]["cached_tokens_source"] == "counters"


async def test_where_usage_reports_hits_the_counters_are_not_read(bench):
    async with bench() as at:
        counted = await by_counters(at).play()
    assert {turn.cached_tokens_source for turn in counted.turns} == {CachedTokensSource.USAGE}
    assert counted.notices == {Notice.SIMULATED}


async def test_a_turn_during_which_another_request_ran_has_no_figure_by_counters(bench):
    async with bench(enable_prompt_tokens_details=False) as at:
        by_counters(at)
        chat, turns = at.client.chat, []

        async def beside(request, *arguments):
            turns.append(request)
            if len(turns) == 3:
                other = ChatRequest("simulated", [{"role": "user", "content": "x"}], 1, "other")
                assert (await chat(other, *arguments)).failure is None
            return await chat(request, *arguments)

        at.client.chat = beside
        result = await at.play()
    assert [index for index, value in enumerate(cached(result), 1) if value is None] == [3]
    assert result.turns[2].cached_tokens_source is None
    assert Notice.CACHED_FROM_COUNTERS in result.notices


async def test_a_loss_is_explained_by_counters_alone_as_well(bench):
    async with bench(enable_prompt_tokens_details=False) as at:
        by_counters(at)
        await at.play()
        at.simulator.inject(faults.Wedge())
        result = await at.play()
    assert {turn.loss.cause for turn in result.turns[1:]} == {LossCause.WEDGED}


async def test_without_the_setting_a_server_without_details_has_no_hit_ratio(bench):
    async with bench(enable_prompt_tokens_details=False) as at:
        result = await at.play()
    assert cached(result) == [None] * 8
    assert {turn.cached_tokens_source for turn in result.turns} == {None}
    assert Notice.USAGE_DETAILS_MISSING in result.notices
