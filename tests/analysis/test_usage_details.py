"""What an answer without cached tokens means, for each kind of server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from silent_engine import Engine, answer, asked, requests_of

from exporter.analysis.hits.usage_details import always_reports
from exporter.model.chat import CachedTokensSource
from exporter.model.failure import Failure, FailureReason
from exporter.model.session import Notice


@pytest.mark.parametrize(
    ("version", "tells"),
    [
        *[(old, False) for old in ("0.8.5", "0.9.2.post2", "0.10.2", "0.17.1", "0.22.1", "0.23.0")],
        *[(new, True) for new in ("0.24.0", "0.27.1", "0.31.0", "0.32.0", "0.33.0", "0.100.1")],
        *[(other, False) for other in (None, "", "1.83.0", "router-0.24", "dev", "10.24.0")],
    ],
)
def test_versions_since_0_24_report_every_0(version, tells):
    assert always_reports(version) is tells


@pytest.mark.parametrize("readable", [True, False])
async def test_a_missing_field_is_0_after_a_reported_hit_and_also_before_it(readable):
    at = await asked(Engine(readable=readable, others_between=(500, 300)))
    assert await at.ask(0, 0) == [None, None], "others hit meanwhile, so no counter tells"
    assert at.notice() is Notice.CACHED_TOKENS_UNKNOWN
    assert await at.ask(800, 0, 640) == [0, 0, 800, 0, 640]
    assert at.notice() is None
    assert {usage.source for usage in at.usages} == {CachedTokensSource.USAGE}


async def test_reports_in_one_session_hold_for_the_next_of_the_same_process():
    engine = Engine(others_between=(500, 300))
    requests = requests_of(engine)
    await (await asked(engine, requests)).ask(800)
    at = await asked(engine, requests)
    assert await at.ask(0) == [0]
    assert at.notice() is None


async def test_a_restarted_process_has_reported_nothing_yet():
    engine = Engine()
    requests = requests_of(engine)
    await (await asked(engine, requests)).ask(800)
    engine.restart(flag=False, others_between=(500, 300))
    at = await asked(engine, requests)
    assert await at.ask(0) == [None]
    assert at.notice() is Notice.CACHED_TOKENS_UNKNOWN


async def test_a_silent_answer_shows_a_restart_within_a_session():
    engine = Engine(others_between=(500, 300))
    at = await asked(engine)
    await at.ask(800, 0)
    engine.restart(flag=False)
    assert await at.ask(640) == [800, 0, None]


async def test_nothing_is_remembered_of_an_unknown_process():
    engine = Engine(readable=False)
    requests = requests_of(engine)
    await (await asked(engine, requests)).ask(800)
    at = await asked(engine, requests)
    assert await at.ask(0) == [None]
    assert await at.ask(640) == [0, 640]


async def test_a_process_without_a_start_time_is_identified_by_its_restarts():
    engine = Engine(says_start=False, others_between=(500, 300))
    requests = requests_of(engine)
    await (await asked(engine, requests)).ask(800)
    assert await (await asked(engine, requests)).ask(0) == [0]
    engine.restart()
    assert await (await asked(engine, requests)).ask(0) == [None]


async def test_without_counted_hits_there_was_none_even_if_others_ran():
    at = await asked(Engine(others_between=(4000, 0)))
    assert await at.ask(0, 0) == [0, 0]
    assert {usage.source for usage in at.usages} == {CachedTokensSource.NO_HITS}
    assert at.notice() is None


async def test_a_hit_that_only_the_engine_counted_shows_that_the_flag_is_off():
    engine = Engine(flag=False)
    at = await asked(engine)
    assert await at.ask(0) == [0]
    assert await at.ask(800, 0) == [None, None, None]
    assert at.notice() is Notice.USAGE_DETAILS_MISSING
    looks = engine.looks
    await at.ask(800, 640)
    assert engine.looks - looks == 2, "the counters around a request are not asked any more"


async def test_hits_of_others_hide_that_the_flag_is_off():
    at = await asked(Engine(flag=False, others_between=(500, 300)))
    assert await at.ask(0, 800) == [None, None]
    assert at.notice() is Notice.CACHED_TOKENS_UNKNOWN


@pytest.mark.parametrize("readable", [True, False])
async def test_a_version_that_always_reports_lacks_the_flag_from_the_first_answer(readable):
    at = await asked(Engine("0.31.0", flag=False, readable=readable))
    assert await at.ask(0) == [None]
    assert at.notice() is Notice.USAGE_DETAILS_MISSING
    assert await at.ask(800, 0) == [None, None, None]
    assert at.notice() is Notice.USAGE_DETAILS_MISSING


async def test_a_server_that_reported_a_0_and_then_nothing_lost_the_field():
    engine = Engine("0.31.0")
    at = await asked(engine)
    await at.ask(0, 800)
    engine.flag = False  # as a proxy that was changed
    assert await at.ask(640, 0) == [0, 800, None, None]
    assert at.notice() is Notice.USAGE_DETAILS_MISSING


async def test_a_gateway_that_drops_zeros_of_a_new_version_is_recognized():
    engine = Engine("0.31.0")
    chat = engine.chat

    async def without_empty(*arguments):
        told = await chat(*arguments)
        return told if told.usage.cached_tokens else answer(replace(told.usage, cached_tokens=None))

    engine.chat = without_empty
    at = await asked(engine)
    assert await at.ask(0, 800, 0) == [0, 800, 0]
    assert at.notice() is None


async def test_an_absent_field_is_not_0_if_the_engine_counted_a_hit_of_such_an_answer():
    engine = Engine()
    at = await asked(engine)
    await at.ask(800)
    engine.flag = False  # as a proxy that was changed
    assert await at.ask(640, 0) == [800, None, 0]
    assert at.notice() is Notice.CACHED_TOKENS_UNKNOWN


async def test_a_page_that_is_behind_the_answer_is_read_again():
    at = await asked(Engine(flag=False, late=3), from_counters=True)
    assert await at.ask(0, 800) == [0, 800]
    assert at.notice() is Notice.CACHED_FROM_COUNTERS


async def test_a_page_that_never_shows_our_requests_is_waited_for_once():
    engine = Engine(flag=False)
    page = await engine.observe()

    async def observe():
        engine.looks += 1
        return page

    engine.observe = observe
    at = await asked(engine)
    await at.ask(0)
    looks = engine.looks
    assert await at.ask(0, 0) == [None, None, None]
    assert engine.looks - looks == 4


async def test_the_notice_about_counters_needs_a_value_from_them():
    at = await asked(Engine(flag=False, others_between=(500, 300)), from_counters=True)
    assert await at.ask(0, 800) == [None, None]
    assert at.notice() is Notice.CACHED_TOKENS_UNKNOWN
    at = await asked(Engine("0.31.0", flag=False, others_between=(500, 300)), from_counters=True)
    assert await at.ask(0, 800) == [None, None]
    assert at.notice() is Notice.USAGE_DETAILS_MISSING


async def test_a_miss_after_a_hit_is_seen_if_counters_may_be_used():
    at = await asked(Engine(), from_counters=True)
    assert await at.ask(0, 800, 0, 640) == [0, 800, 0, 640]
    assert at.notice() is None


async def test_a_failed_answer_is_not_settled_by_counters():
    engine = Engine(flag=False)
    chat = engine.chat

    async def cut(*arguments):
        usage = (await chat(*arguments)).usage
        return answer(usage, Failure(FailureReason.ABORTED, "the engine aborted the request"))

    engine.chat = cut
    at = await asked(engine)
    assert await at.ask(0) == [None]
    assert at.notice() is Notice.CACHED_TOKENS_UNKNOWN


async def test_an_answer_without_a_reading_after_it_is_settled_by_the_next_reading():
    engine = Engine(others_between=(500, 300))
    at = await asked(engine)
    await at.ask(800)
    engine.readable = False
    assert await at.ask(0) == [800, None]
    engine.readable = True
    assert await at.ask(640, 0) == [800, 0, 640, 0]
    assert at.scope._requests.share.unsettled == 0


async def test_an_answer_without_a_reading_before_a_restart_stays_unknown():
    engine = Engine(others_between=(500, 300))
    at = await asked(engine)
    await at.ask(800)
    engine.readable = False
    engine.flag = False
    await at.ask(640)
    engine.restart(flag=True, readable=True)
    assert await at.ask(0, 800, 0) == [800, None, 0, 800, 0]


async def test_several_engines_at_one_url_are_not_one_process():
    engine = Engine(others_between=(500, 300))
    observe = engine.observe

    async def mixed():
        return replace(await observe(), mixed=True)

    engine.observe = mixed
    requests = requests_of(engine)
    await (await asked(engine, requests)).ask(800)
    assert await (await asked(engine, requests)).ask(0) == [None]
