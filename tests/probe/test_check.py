"""`check` against a simulated engine with one fault at a time: what fails, and which remedy it names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.analysis.hits.traffic import Traffic
from exporter.analysis.isolation import IsolationTest
from exporter.analysis.load import session_tokens
from exporter.clock import SystemClock
from exporter.engine.client.engine_client import EngineClient
from exporter.model.failure import FailureReason
from exporter.probe.check import TESTS, Check
from exporter.probe.engine_requests import EngineRequests
from exporter.simulator.faults import behaviours, faults
from exporter.simulator.text import tokens
from exporter.wording.findings.finding import Verdict
from exporter.wording.findings.isolation import of_isolation, of_wedge

PASS, FAIL, UNKNOWN = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN


async def checked(at, client=None):
    requests = EngineRequests(client or at.client, at.requests.observe, SystemClock())
    return await Check(at.plan, requests, at.new_salt).run()


def verdicts(report, verdict):
    return {one.name for one in report.findings if one.verdict is verdict}


def finding(report, name):
    return next(one for one in report.findings if one.name == name)


def asleep(observe):
    """The same readings, of an engine that reports sleep."""

    async def look():
        view = await observe()
        return replace(view, snapshot=replace(view.snapshot, asleep=True))

    return look


async def test_a_sleeping_engine_gets_no_request_and_fails_no_test(bench):
    async with bench() as at:
        at.requests.observe = asleep(at.requests.observe)
        report = await checked(at)
        view = await at.requests.observe()
    assert view.snapshot.prompt_tokens == 0
    assert report.healthy
    assert finding(report, "awake").verdict is UNKNOWN
    assert "/wake_up" in finding(report, "awake").remedy
    assert finding(report, "second_turn").evidence == (
        "not tried: the engine sleeps, is paused or is being scaled"
    )
    assert {one.name for one in report.findings} == {*TESTS, "awake"}


async def test_a_paused_engine_gets_no_request_either(bench):
    async with bench() as at:
        at.simulator.inject(behaviours.Paused("waits"))
        report = await checked(at)
        assert (await at.requests.observe()).snapshot.prompt_tokens == 0
    assert report.healthy
    assert "/is_paused" in finding(report, "awake").evidence
    assert "/resume" in finding(report, "awake").remedy


async def test_an_engine_that_is_being_scaled_fails_no_test(bench):
    async with bench() as at:
        at.simulator.inject(behaviours.Scaling())
        report = await checked(at)
    assert report.healthy
    assert finding(report, "reachable").verdict is PASS
    assert "scaled" in finding(report, "awake").evidence
    assert "/scale_elastic_ep" in finding(report, "awake").remedy
    assert {one.name for one in report.findings} == {*TESTS, "awake"}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (behaviours.Paused("waits"), FailureReason.PAUSED),
        (behaviours.Asleep(), FailureReason.ASLEEP),
        (behaviours.Scaling(), FailureReason.SCALING),
        (faults.Hang(), FailureReason.FIRST_TOKEN_TIMEOUT),
    ],
)
async def test_a_session_tells_an_engine_that_rests_from_one_that_hangs(bench, fault, reason):
    async with bench() as at:
        at.runner._plan = replace(
            at.runner._plan, deadlines=replace(at.runner._plan.deadlines, first_token=0.3)
        )
        after_turn_2 = lambda facts: at.simulator.inject(fault) if facts.index == 2 else None  # noqa: E731
        result = await at.play(after_turn_2)
    assert (result.failure.reason, result.failed_turn) == (reason, 3)
    assert len(result.turns) == 2


async def test_a_session_of_a_sleeping_engine_fails_at_once_and_sends_nothing(bench):
    async with bench() as at:
        observe = at.requests.observe
        at.requests.observe = asleep(observe)
        result = await at.play()
        assert (await observe()).snapshot.prompt_tokens == 0
    assert (result.failure.reason, result.turns) == (FailureReason.ASLEEP, ())
    assert session_tokens(result) == 0


async def test_a_sound_engine_passes_every_test_and_the_findings_come_in_order(bench):
    async with bench() as at:
        report = await checked(at)
    assert tuple(one.name for one in report.findings) == TESTS
    assert verdicts(report, PASS) == set(TESTS)
    assert report.healthy


@pytest.mark.parametrize(
    ("fault", "failed", "unknown", "remedy"),
    [
        (
            faults.NoUsageDetails(),
            {"usage_details"},
            {"cold_start", "second_turn", "isolation", "wedge"},
            "--enable-prompt-tokens-details",
        ),
        (
            faults.NoUsage(),
            {"usage_details"},
            {"cold_start", "second_turn", "isolation", "wedge"},
            "stream_options.include_usage",
        ),
        (
            faults.NoPrefixCaching(),
            {"prefix_caching", "second_turn"},
            {"reuse_rule", "isolation", "wedge"},
            "without --no-enable-prefix-caching",
        ),
        (
            faults.NoLogStats(),
            {"metrics"},
            {"flags", "prefix_caching", "match_unit", "reuse_rule", "footprint"},
            "without --disable-log-stats",
        ),
        (
            faults.Wedge(),
            {"second_turn"},
            {"isolation", "wedge"},
            "otherwise a restart is not known to help",
        ),
        (faults.IgnoreSalts(), {"isolation"}, set(), "ignores cache_salt"),
        (faults.NoTokenIds(), set(), set(), None),
        (
            faults.MovingSystemPrompt(),
            {"prefix_stable"},
            set(),
            "--chat-template",
        ),
    ],
)
async def test_each_fault_fails_its_own_tests_and_names_what_mends_it(
    bench, fault, failed, unknown, remedy
):
    async with bench() as at:
        at.simulator.inject(fault)
        report = await checked(at)
    assert verdicts(report, FAIL) == failed
    assert verdicts(report, UNKNOWN) == unknown
    assert report.healthy is (not failed)
    remedies = [one.remedy for one in report.findings if one.verdict is not PASS and one.remedy]
    assert any(remedy in text for text in remedies) if remedy else not remedies, remedies


async def test_without_token_ids_from_anywhere_the_ideal_is_unknown_and_no_fault(bench):
    async with bench() as at:
        at.simulator.inject(faults.NoTokenIds())
        at.simulator.inject(faults.NoTokenize())
        report = await checked(at)
    assert report.healthy
    assert verdicts(report, UNKNOWN) == {"token_ids", "prefix_stable"}
    assert "0.10.2" in finding(report, "token_ids").remedy


async def test_salts_that_are_ignored_fail_the_cold_start_of_a_second_check(bench):
    async with bench() as at:
        at.simulator.inject(faults.IgnoreSalts())
        await checked(at)
        report = await checked(at)
    assert verdicts(report, FAIL) == {"cold_start", "isolation"}
    assert "restarted with random words" in finding(report, "cold_start").evidence
    assert "efficiency 100 %" in finding(report, "second_turn").evidence


async def test_blocks_that_no_prompt_can_fill_leave_the_second_turn_unknown(bench):
    async with bench(block_size=4096, max_model_len=3000) as at:
        report = await checked(at)
    found = finding(report, "second_turn")
    assert found.verdict is UNKNOWN
    assert "--max-model-len" in found.remedy
    assert verdicts(report, FAIL) == set()


async def test_a_template_that_moves_the_system_prompt_is_failed_with_message_and_text(bench):
    async with bench() as at:
        at.simulator.inject(faults.MovingSystemPrompt())
        found = finding(await checked(at), "prefix_stable")
    assert "in message 1 (system)" in found.evidence
    assert "You are a careful software engineer" in found.evidence


@pytest.mark.parametrize("block_size", [16, 528])
async def test_the_twice_sent_prompt_spans_three_match_units_of_any_size(bench, block_size):
    async with bench(block_size=block_size) as at:
        report = await checked(at)
        at.simulator.inject(faults.Wedge())
        wedged = await checked(at)
    assert finding(report, "wedge").verdict is PASS
    assert "never" not in finding(report, "wedge").evidence
    assert finding(wedged, "wedge").verdict is UNKNOWN
    assert "no prompt of the probe is known to have hit" in finding(wedged, "wedge").evidence


async def test_a_cache_that_stops_during_the_check_is_wedged_in_every_finding(bench):
    async with bench() as at:
        chat = at.client.chat

        async def stops(request, *arguments):
            if request.max_tokens > 1:  # the session, after the isolation test
                at.simulator.inject(faults.Wedge())
            return await chat(request, *arguments)

        at.client.chat = stops
        report = await checked(at)
    assert verdicts(report, FAIL) == {"second_turn", "wedge"}
    for name in ("second_turn", "wedge"):
        assert "this engine process had hit before" in finding(report, name).evidence
        assert finding(report, name).remedy.startswith("Restart vLLM")


@pytest.mark.parametrize("others", [0, 1])
async def test_usage_that_hides_hits_is_not_a_cache_that_does_not_hit(bench, others):
    """A gateway reports 0 cached tokens, and other clients use the engine too."""
    async with bench() as at:
        chat = at.client.chat

        async def through_a_gateway(request, *arguments):
            for number in range(others):
                text = [{"role": "user", "content": f"Another user asks {number}."}]
                other = replace(request, messages=text, tools=(), cache_salt="users")
                assert (await chat(other, *arguments)).failure is None
            answer = await chat(request, *arguments)
            return replace(answer, usage=replace(answer.usage, cached_tokens=0))

        at.client.chat = through_a_gateway
        report = await checked(at)
    assert verdicts(report, FAIL) == {"usage_details", "second_turn"}
    assert "unreported" in finding(report, "second_turn").evidence
    assert finding(report, "wedge").verdict is PASS
    assert "the cache works" in finding(report, "wedge").evidence
    assert not any("Restart vLLM" in (one.remedy or "") for one in report.findings)


async def test_two_prompts_that_the_template_renders_apart_are_no_wedge(bench):
    async with bench() as at:
        template = at.simulator.engine.encode_chat
        clock = iter(range(10**6, 10**7))

        def with_the_time(*arguments, **more):
            return [*tokens.encode(f"It is {next(clock)}. "), *template(*arguments, **more)]

        at.simulator.engine.encode_chat = with_the_time
        report = await checked(at)
    assert verdicts(report, FAIL) >= {"prefix_stable"}
    assert finding(report, "wedge").verdict is UNKNOWN
    assert "different token ids" in finding(report, "wedge").evidence
    assert not any("Restart vLLM" in (one.remedy or "") for one in report.findings)


async def test_a_context_too_short_for_three_units_leaves_the_wedge_unknown(bench):
    async with bench(block_size=528, max_model_len=1500) as at:
        at.simulator.inject(faults.Wedge())
        report = await checked(at)
    assert finding(report, "wedge").verdict is UNKNOWN
    assert "too short" in finding(report, "wedge").evidence


async def test_a_cache_that_others_fill_in_between_is_not_called_wedged(bench):
    async with bench(num_blocks=256) as at:
        chat = at.client.chat
        salts = []

        async def crowded(request, *arguments):
            if request.cache_salt in salts[-1:] and request.max_tokens == 1:
                for number in range(4):
                    text = f"Other {number}. " + "lorem ipsum dolor sit amet " * 250
                    other = replace(
                        request,
                        messages=[{"role": "user", "content": text}],
                        cache_salt=f"o{number}",
                    )
                    assert (await chat(other, *arguments)).failure is None
            salts.append(request.cache_salt)
            return await chat(request, *arguments)

        at.client.chat = crowded
        report = await checked(at)
    found = finding(report, "wedge")
    assert found.verdict is UNKNOWN
    assert "other requests filled the cache in between" in found.evidence


async def test_an_unreachable_engine_fails_one_test_and_leaves_the_rest_unknown(bench):
    async with bench() as at, EngineClient("http://127.0.0.1:9") as client:
        report = await checked(at, client)
    assert verdicts(report, FAIL) == {"reachable"}
    assert verdicts(report, UNKNOWN) == set(TESTS) - {"reachable"}
    assert "Check that vLLM runs" in finding(report, "reachable").remedy


async def test_a_missing_key_and_a_model_that_is_not_served_are_told_apart_from_no_answer(bench):
    async with bench(api_key="secret") as at:
        locked = await checked(at)
        async with EngineClient(at.simulator.url, api_key="secret", model="other") as client:
            other = await checked(at, client)
    for report, words in [(locked, "--api-key-file"), (other, "that the server lists")]:
        assert verdicts(report, PASS) == {"reachable"}
        assert verdicts(report, FAIL) == {"model"}
        assert words in finding(report, "model").remedy


async def test_a_session_that_fails_is_a_failed_second_turn_with_its_reason(bench):
    async with bench() as at:
        at.simulator.inject(faults.Errors(status=500))
        report = await checked(at)
    assert "server_error" in finding(report, "second_turn").evidence
    assert verdicts(report, FAIL) == {"second_turn"}


FINE = IsolationTest(
    prompt_tokens=1000,
    first_cached=0,
    same_salt_cached=992,
    other_salt_cached=0,
    match_unit=32,
    ranks=1,
    traffic=Traffic(foreign=0, alone=True, unreported_hits=0, hits_beyond=0),
    room=30_000,
    same_ids=True,
    hit_before=True,
)
MISSED = replace(FINE, same_salt_cached=0, third_cached=0)
CROWD = Traffic(foreign=40_000, alone=False, unreported_hits=None)
HIDDEN = Traffic(foreign=0, alone=True, unreported_hits=992, hits_beyond=992)


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        (FINE, PASS),
        (replace(FINE, other_salt_cached=32), FAIL),
        (replace(FINE, first_cached=32), FAIL),
        (replace(FINE, first_cached=32, other_salt_cached=None), FAIL),
        (replace(FINE, first_cached=None), UNKNOWN),
        (replace(FINE, ranks=2), UNKNOWN),
        (replace(FINE, mixed=True), UNKNOWN),
        (replace(FINE, ranks=2, other_salt_cached=992), FAIL),
        (replace(FINE, transfer=True, first_cached=None, same_salt_cached=None), UNKNOWN),
        (MISSED, UNKNOWN),
        (replace(MISSED, third_cached=992), PASS),
    ],
)
def test_isolation_is_judged_by_cached_tokens(test, verdict):
    assert of_isolation(test).verdict is verdict


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        (FINE, PASS),
        (replace(FINE, match_unit=None), PASS),
        (MISSED, FAIL),
        (replace(MISSED, prompt_tokens=96), UNKNOWN),
        (replace(MISSED, match_unit=None), UNKNOWN),
        (replace(MISSED, room=None), UNKNOWN),
        (replace(MISSED, traffic=None), UNKNOWN),
        (replace(MISSED, traffic=CROWD), UNKNOWN),
        (replace(MISSED, traffic=HIDDEN), PASS),
        (replace(MISSED, hit_before=False), UNKNOWN),
        (replace(MISSED, third_cached=992), UNKNOWN),
        (replace(MISSED, overlap_cached=992), UNKNOWN),
        (replace(MISSED, same_ids=False), UNKNOWN),
        (replace(MISSED, same_ids=None), UNKNOWN),
        (replace(MISSED, ranks=2), UNKNOWN),
        (replace(MISSED, mixed=True), UNKNOWN),
        (replace(MISSED, ranks=None), UNKNOWN),
        (replace(FINE, same_salt_cached=None), UNKNOWN),
    ],
)
def test_a_wedge_is_only_failed_where_nothing_else_can_have_been(test, verdict):
    assert of_wedge(test).verdict is verdict


@pytest.mark.parametrize(
    ("hit_before", "words"), [(True, "emptied the cache"), (False, "computed it twice")]
)
def test_a_hit_at_the_third_request_is_explained_by_earlier_hits_of_the_process(hit_before, words):
    test = replace(MISSED, third_cached=992, hit_before=hit_before)
    assert words in of_wedge(test).evidence


def test_a_hit_at_the_third_request_proves_nothing_where_several_engines_answer():
    third = replace(MISSED, third_cached=992, hit_before=False)
    assert "computed it twice, or several engines" in of_wedge(third).evidence
    found = of_wedge(replace(third, mixed=True))
    assert "computed it twice" not in found.evidence
    assert found.evidence.endswith("several engines answer at this URL")
