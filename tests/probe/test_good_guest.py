"""The probe as a guest: what it leaves in the cache, over a day, and what users lose by it."""

import pytest
from guest_day import GuestDay, most_within

from exporter.model.probe import Due
from exporter.simulator.faults.faults import Wedge

HOUR = 3600.0


@pytest.mark.parametrize("capacity", [80_000, 500_000, 2_000_000])
async def test_no_hour_or_quarter_of_a_day_rewrites_more_of_the_cache_than_it_may(capacity):
    hours = 24 if capacity < 1_000_000 else 6  # at a session a minute the rest is the same
    async with GuestDay(capacity, {"quiet_after_seconds": 0}) as day:
        day.start()
        await day.until(hours * HOUR)
    assert all(result.failure is None for result in day.sessions)
    assert len(day.sessions) >= hours
    limit = 0.1 * capacity
    session = 1_800 if capacity == 80_000 else 6_500  # with a cold control
    assert most_within(day.written, HOUR) <= limit + session
    control = 600 if capacity == 80_000 else 3_000
    assert most_within(day.written, HOUR / 4) <= 0.03 * capacity + control
    assert sum(tokens for _, tokens in day.consumed) <= hours * day.settings.tokens_per_hour


async def found_after_a_pause(capacity, users, words, *, probe):
    """The share of users' tokens that is still cached after a quarter of an hour."""
    async with GuestDay(capacity) as day:
        asked = 0
        for number in range(users):
            await day.until(60.0 * (number + 1))
            asked += (await day.user(number, words))[0]
        if probe:
            day.start()
        await day.until(60.0 * users + 900.0)
        found = 0
        for number in reversed(range(users)):
            found += (await day.user(number, words))[1]
    assert 0.97 * capacity < asked <= capacity
    return found / asked


@pytest.mark.parametrize(("capacity", "words"), [(80_000, 220), (500_000, 1385)])
async def test_agents_that_pause_for_a_quarter_of_an_hour_find_their_prompts(capacity, words):
    assert await found_after_a_pause(capacity, 60, words, probe=False) >= 0.99
    assert await found_after_a_pause(capacity, 60, words, probe=True) >= 0.97


async def test_a_cache_that_dies_on_a_small_engine_is_noticed_within_two_minutes():
    async with GuestDay(80_000) as day:
        day.start()
        await day.until(1_000.0)
        assert day.state.wedged is False
        day.simulator.inject(Wedge())
        await day.until(1_120.0)
        assert day.state.wedged is True


async def test_no_heartbeat_is_overdue_while_a_session_that_lasts_long_shows_the_engine():
    async with GuestDay(80_000) as day:
        late = []
        chat = day.client.chat

        async def slow(*args, **options):
            if not day.sessions:
                late.append(day.clock.time() - day.state.due[Due.HEARTBEAT])
            day.clock.jump(90.0)
            return await chat(*args, **options)

        day.client.chat = slow
        day.start()
        await day.until(900.0)
    assert len(late) == 8, "turns of the first session"
    assert max(late) < 0
