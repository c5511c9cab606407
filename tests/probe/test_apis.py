"""Sessions over /v1/messages and /v1/responses: as those over chat completions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.clock import SystemClock
from exporter.engine.wire.surfaces.named import SURFACES
from exporter.model.failure import FailureReason
from exporter.model.session import LossCause, Notice
from exporter.probe.check import Check
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.session.token_ids import _same_parts
from exporter.simulator.faults import behaviours, faults
from exporter.wording.findings.finding import Verdict

OTHERS = [name for name in SURFACES if name != "chat_completions"]


async def checked(at):
    requests = EngineRequests(at.client, at.requests.observe, SystemClock())
    return await Check(at.plan, requests, at.new_salt).run()


def counts(result):
    """What a session says of each turn, without its times."""
    return [
        (
            *(turn.prompt_tokens, turn.completion_tokens, turn.cached_tokens),
            *(turn.ideal_cached_tokens, turn.attainable_cached_tokens, turn.efficiency_ratio),
        )
        for turn in result.turns
    ]


@pytest.mark.parametrize("api", OTHERS)
@pytest.mark.parametrize("block_size", [16, 32, 128])
async def test_a_session_has_the_same_turns_as_over_chat_completions(bench, api, block_size):
    async with bench(block_size=block_size) as at:
        expected = await at.play()
    async with bench(api=api, block_size=block_size) as at:
        result = await at.play()
    assert result.failure is None
    assert counts(result) == counts(expected)
    assert {turn.efficiency_ratio for turn in result.turns[1:]} == {1.0}
    assert result.prefix.stable
    assert result.prefix.turns_compared == len(result.turns) - 1


@pytest.mark.parametrize("api", OTHERS)
async def test_a_lost_cache_is_a_loss_on_every_api(bench, api):
    async with bench(api=api, dev_mode=True) as at:

        def lose(facts):
            if facts.index == 3:
                at.simulator.engine.reset_prefix_cache()

        result = await at.play(lose)
    assert result.failure is None
    assert result.turns[3].cached_tokens == 0
    assert result.turns[3].attainable_cached_tokens > 0
    assert result.turns[3].loss.tokens == result.turns[3].attainable_cached_tokens


@pytest.mark.parametrize("api", SURFACES)
async def test_the_requests_of_a_session_go_to_the_path_of_its_api(bench, api):
    async with bench(api=api) as at:
        seen = []
        play = at.simulator.engine.submit

        def watched(*arguments, **options):
            seen.append(options["salt"])
            return play(*arguments, **options)

        at.simulator.engine.submit = watched
        result = await at.play()
    assert seen == ["salt-0"] * len(result.turns)


async def test_ids_of_messages_are_recovered_and_those_of_responses_are_sent(bench):
    async with bench(api="messages") as at:
        result = await at.play()
    assert Notice.TOKEN_IDS_RECOVERED in result.notices
    assert Notice.TOKEN_IDS_MISSING not in result.notices
    async with bench(api="responses") as at:
        result = await at.play()
    assert not {Notice.TOKEN_IDS_RECOVERED, Notice.TOKEN_IDS_MISSING} & result.notices


async def test_no_logprobs_are_asked_of_an_api_that_has_none(bench):
    async with bench(api="messages") as at:
        chat, asked = at.client.chat, []

        async def watched(request, *arguments):
            asked.append(request.logprobs)
            return await chat(request, *arguments)

        at.client.chat = watched
        await at.play()
        await at.play()
    assert asked == [False] * 16


def with_pieces(client, change):
    """A client whose answers have other pieces of text."""
    chat = client.chat

    async def changed(request, *arguments):
        answer = await chat(request, *arguments)
        return replace(answer, text_pieces=change(answer.text_pieces))

    client.chat = changed


@pytest.mark.parametrize(
    "change",
    [
        lambda pieces: (pieces[0] + pieces[1], *pieces[2:]),
        lambda pieces: (pieces[0][:-1], pieces[0][-1:] + pieces[1], *pieces[2:]),
        lambda _pieces: (),
    ],
    ids=["two tokens in one event", "parted at other places", "not text alone"],
)
async def test_where_the_stream_does_not_show_each_token_only_a_hit_proves_the_ideal(bench, change):
    async with bench(api="messages", dev_mode=True) as at:
        with_pieces(at.client, change)
        sound = await at.play()

        def lose(facts):
            if facts.index == 3:
                at.simulator.engine.reset_prefix_cache()

        lossy = await at.play(lose)
    assert {turn.efficiency_ratio for turn in sound.turns[1:]} == {1.0}
    lost, others = lossy.turns[3], [turn for turn in lossy.turns[1:] if turn.index != 4]
    assert (lost.cached_tokens, lost.ideal_cached_tokens) == (0, None), "it is not guessed"
    assert {turn.efficiency_ratio for turn in others} == {1.0}


async def test_without_tokenize_the_ideal_of_messages_is_unknown_and_its_hits_are_known(bench):
    async with bench(api="messages") as at:
        at.simulator.inject(faults.NoTokenize())
        result = await at.play()
    assert Notice.TOKEN_IDS_MISSING in result.notices
    assert {turn.ideal_cached_tokens for turn in result.turns[1:]} == {None}
    assert all(turn.cached_tokens for turn in result.turns[1:])


@pytest.mark.parametrize(
    ("pieces", "texts", "same"),
    [
        ((" a", "b"), ("\u0120a", "b"), True),  # one character for each byte
        ((" a", "b"), ("\u2581a", "b"), True),  # a mark in place of the space
        ((" \u00e9",), ("\u0120\u00c3\u00a9",), True),
        ((" \u00e9",), ("\u2581\u00e9",), True),
        ((" a", "b"), ("\u0120", "ab"), False),
        ((" a",), ("\u0120a", "b"), False),
        (("\n",), ("<0x0A>",), False),
    ],
)
def test_a_text_is_parted_at_the_same_places_if_its_tokens_are_as_long(pieces, texts, same):
    assert _same_parts(pieces, texts) is same


@pytest.mark.parametrize("api", OTHERS)
async def test_answers_with_reasoning_go_back_and_the_session_goes_on(bench, api):
    async with bench(api=api) as at:
        at.simulator.inject(behaviours.AllReasoning())
        result = await at.play()
    assert result.failure is None
    assert len(result.turns) == 8
    assert all(turn.ttft_seconds is not None for turn in result.turns)


@pytest.mark.parametrize("api", OTHERS)
async def test_usage_without_cache_fields_is_unknown_and_not_zero(bench, api):
    async with bench(api=api, enable_prompt_tokens_details=False) as at:
        result = await at.play()
    known = {turn.cached_tokens is None for turn in result.turns}
    assert known == {api == "messages"}, "responses have the number in any case"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.CutStream(after_chunks=3), {FailureReason.STREAM_CUT}),
        (faults.StreamError(after_chunks=3), {FailureReason.STREAM_ERROR, FailureReason.STREAM_CUT}),
        (faults.Errors(status=500), {FailureReason.SERVER_ERROR}),
        (faults.Errors(status=503), {FailureReason.OVERLOADED}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("api", OTHERS)
async def test_a_fault_is_the_same_failure(bench, api, fault, reason):
    async with bench(api=api) as at:
        at.simulator.inject(fault)
        result = await at.play()
    assert result.failure.reason in reason


async def test_an_aborted_message_is_known_and_an_aborted_response_looks_whole(bench):
    for api, reason in (("messages", FailureReason.ABORTED), ("responses", None)):
        async with bench(api=api) as at:
            at.simulator.inject(faults.Abort(after_tokens=2))
            result = await at.play()
        assert (result.failure and result.failure.reason) == reason


@pytest.mark.parametrize(("api", "pinned"), [("messages", True), ("responses", False)])
async def test_sessions_keep_to_a_rank_where_the_api_reads_its_header(bench, api, pinned):
    async with bench(api=api, like="dp2", pin_ranks=True) as at:
        played = [await at.play() for _ in range(2)]
    lost = [turn.loss.cause for result in played for turn in result.turns if turn.loss]
    assert set(lost) == (set() if pinned else {LossCause.OTHER_RANK})


@pytest.mark.parametrize(
    ("api", "like"), [("messages", "vllm-0.10.2"), ("responses", "vllm-0.9.2")]
)
async def test_check_says_that_a_server_lacks_the_api(bench, api, like):
    async with bench(api=api, like=like) as at:
        report = await checked(at)
        result = await at.play()
    assert result.failure.reason is FailureReason.API_NOT_SERVED
    found = next(one for one in report.findings if one.name == "second_turn")
    assert not report.healthy
    assert found.verdict is Verdict.FAIL
    assert f"does not serve {SURFACES[api].path}" in found.evidence
    assert "probe.api" in found.remedy


@pytest.mark.parametrize("api", OTHERS)
async def test_check_passes_every_test_of_a_sound_engine(bench, api):
    async with bench(api=api) as at:
        report = await checked(at)
    assert report.healthy
    assert {one.verdict for one in report.findings} == {Verdict.PASS}
