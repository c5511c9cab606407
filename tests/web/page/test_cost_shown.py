"""The pauses of the probe and the costs of prefill, on the page and in the API."""

from dataclasses import replace

import pytest
from publish_records import (
    STARTED,
    TURNS,
    engine_view,
    failed_session,
    measured,
    session,
    turn,
)
from samples_page import publish

from exporter.metrics.state.cost import Prices
from exporter.metrics.state.target import TargetState
from exporter.model.probe import PauseReason, RetentionReading
from exporter.model.session import Control, ControlOutcome


async def test_the_page_shows_why_the_probe_waits_and_what_was_measured(client, published):
    published.metrics.add(TargetState("local"))
    publish(published.metrics, engine_view())
    published.metrics.targets["local"].admission_checked(PauseReason.QUEUE)
    publish(published.metrics, RetentionReading("local", 60.0, 0.25))
    page = await (await client.get("/")).text()
    assert "requests wait in the engine&#39;s queue" in page
    assert "25.0 % after 60\xa0s" in page
    assert "per token" not in page
    for result in measured():
        published.session_finished(result)
    published.metrics.targets["local"].admission_checked(None)
    page = await (await client.get("/")).text()
    assert "200.0 ± 0.0 µs per token" in page
    assert "Probe waits" not in page


def compared(saved, *, cached=992, number=0):
    """A session with a turn of 100 ms and a cold control that took `saved` seconds longer."""
    control = Control(ControlOutcome.COLD, True, 1250, 32, 0.1 + saved)
    warm = replace(turn(2, 1250, cached, 992, ttft=0.1), control=control)
    return session(TURNS[0], warm, started=STARTED + 60 * number)


async def time_saved(client, published, *sessions):
    for each in sessions:
        published.session_finished(each)
    page = await (await client.get("/")).text()
    return page.partition("<dt>Time saved</dt><dd>")[2].partition("</dd>")[0]


async def test_the_page_shows_the_time_that_the_last_controls_saved_with_its_interval(
    client, published
):
    sessions = [compared(0.01 * number, number=number) for number in range(3, 9)]
    assert await time_saved(client, published, *sessions[:5]) == ""
    assert await time_saved(client, published, sessions[5]) == (
        "the first token came 55 ms sooner in the median, 95 % interval 30 ms to 80 ms, "
        "6 cold controls"
    )


async def test_a_difference_by_chance_is_shown_as_no_measurable_difference(client, published):
    saved = (0.01, -0.02, 0.03, -0.01, 0.02, -0.03)
    sessions = [compared(each, number=number) for number, each in enumerate(saved)]
    assert await time_saved(client, published, *sessions) == (
        "TTFT: no measurable difference, 95 % interval 30 ms later to 30 ms sooner, 6 cold controls"
    )


async def test_the_page_of_an_engine_that_caches_nothing_has_no_time_saved(client, published):
    sessions = [compared(0.0124, cached=0, number=number) for number in range(12)]
    assert await time_saved(client, published, *sessions) == ""
    assert "sooner" not in await (await client.get("/")).text()


async def test_a_sleeping_engine_is_neither_up_nor_failing(client, published):
    published.metrics.add(TargetState("local"))
    published.session_finished(failed_session())
    published.metrics.targets["local"].admission_checked(PauseReason.ASLEEP)
    page = await (await client.get("/")).text()
    assert "Asleep, paused or being scaled" in page
    assert "1 target: 1 asleep or paused." in page
    assert "The last session failed" not in page
    assert "because the engine sleeps" in page
    assert "paused" in (await (await client.get("/api/v1/targets")).json())["targets"][0]["cost"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (8.0, "8.00 s to stay within 5,000,000 tokens an hour"),
        (-3.0, "0 ms to stay within 5,000,000 tokens an hour"),
        (None, "to stay within 5,000,000 tokens an hour"),
        (9000.0, "2 h, because the budget of 5,000,000 tokens an hour is used up"),
    ],
)
async def test_the_page_tells_a_budget_that_paces_sessions_from_one_that_is_used_up(
    client, published, seconds, words
):
    published.session_finished(session(*TURNS))
    (
        published.metrics.targets["local"].cost.budget_tokens_per_hour,
        published.metrics.targets["local"].cost.prices,
    ) = 5_000_000, Prices()
    until = None if seconds is None else STARTED + 60 + seconds
    published.metrics.targets["local"].admission_checked(PauseReason.BUDGET, until)
    page = await (await client.get("/")).text()
    assert f"<dt>Probe waits</dt><dd>{words}</dd>" in page


async def test_the_api_has_the_same_values_and_null_for_unknown_ones(client, published):
    published.session_finished(session(*TURNS))
    (
        published.metrics.targets["local"].cost.budget_tokens_per_hour,
        published.metrics.targets["local"].cost.prices,
    ) = 5000, Prices()
    published.metrics.targets["local"].admission_checked(PauseReason.BUDGET)
    (target,) = (await (await client.get("/api/v1/targets")).json())["targets"]
    assert target["cost"] == {
        "paused": "budget",
        "budget_tokens_per_hour": 5000,
        "cache_turnover_ratio": None,
        "prefill_seconds_per_token": None,
        "prefill_seconds_per_token_error": None,
        "prefill_seconds_saved": None,
        "users_prefill_seconds_saved": None,
        "retention_ratios": {},
    }
