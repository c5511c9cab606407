"""`check` says whether an engine's KV events arrive, and nothing where nobody asked for them."""

from __future__ import annotations

from kv_event_bench import receiving, receiving_events_of

from exporter.probe.check import TESTS, Check
from exporter.simulator.kv_events.settings import KvEventsConfig
from exporter.wording.findings.finding import Verdict

PUBLISHED = KvEventsConfig("tcp://127.0.0.1:*")


async def found(at):
    report = await Check(at.plan, at.requests, at.new_salt).run()
    (finding,) = [one for one in report.findings if one.name == "kv_events"]
    assert tuple(one.name for one in report.findings) == (*TESTS, "kv_events")
    return finding


async def test_the_events_of_the_own_session_arrived(bench):
    async with bench(kv_events=PUBLISHED) as at, receiving_events_of(at) as feed:
        finding = await found(at)
        assert finding.verdict is Verdict.PASS
        assert f"{feed.url}: " in finding.evidence
        assert f"{feed.blocks.count} blocks of the session" in finding.evidence
        assert feed.blocks.count > 50


async def test_an_address_where_nothing_answers_fails_with_the_flag_to_set(bench):
    async with bench() as at, receiving("tcp://127.0.0.1:9", wait=False) as feed:
        at.requests.kv_events = feed
        finding = await found(at)
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == "tcp://127.0.0.1:9: nothing answers"
    assert '--kv-events-config \'{"enable_kv_cache_events": true' in finding.remedy


async def test_another_engines_events_are_not_taken_for_this_ones(bench):
    async with (
        bench(kv_events=PUBLISHED) as other,
        bench() as at,
        receiving_events_of(other) as feed,
    ):
        at.requests.kv_events = feed
        await other.play()
        finding = await found(at)
    assert finding.verdict is Verdict.UNKNOWN
    assert "none of them names the session's salt" in finding.evidence


async def test_an_engine_that_answers_nothing_leaves_it_unknown(bench):
    async with bench(kv_events=PUBLISHED) as at, receiving_events_of(at):
        await at.simulator._refuse()
        report = await Check(at.plan, at.requests, at.new_salt).run()
    assert {one.name for one in report.findings} == {*TESTS, "kv_events"}
    assert report.findings[-1].verdict is Verdict.UNKNOWN
