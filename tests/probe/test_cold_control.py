"""Cold controls in whole sessions over HTTP."""

import asyncio
import random
import statistics
from dataclasses import replace

import pytest
import uvloop
from engine_proxy import engine_proxy
from hypothesis import given
from hypothesis import strategies as st
from scraper_bench import requests_to
from stamped_server import AUTHORITY, server_tls

from exporter.config.schema.settings import ProbeSettings
from exporter.engine.client.engine_client import EngineClient
from exporter.model.session import ControlOutcome
from exporter.probe.session.cold_control import ColdControl, Place
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.opening import room_is_scarce
from exporter.simulator.faults import faults


def with_controls(at, ratio=1.0, seed=0):
    salts = (f"control-{number}" for number in range(1000))
    control = ColdControl(ratio, random.Random(seed).random, lambda: next(salts))
    return SessionRunner(at.plan, requests_to(at.client), at.new_salt, control=control)


async def test_a_control_is_the_same_prompt_without_its_cache_and_takes_longer(bench):
    async with bench(time_scale=0.2, jitter_ratio=0.0) as at:
        result = await with_controls(at).play()
    assert result.failure is None
    assert result.turns[0].control is None
    for turn in result.turns[1:]:
        assert turn.control.outcome is ControlOutcome.COLD
        assert turn.control.prompt_tokens == turn.prompt_tokens
        assert turn.cached_tokens == turn.ideal_cached_tokens > 0
        assert turn.loss is None
        assert turn.cold_ttft_seconds > turn.ttft_seconds
        assert turn.ttft_saved_seconds == turn.cold_ttft_seconds - turn.ttft_seconds
    assert {turn.control.before_turn for turn in result.turns[1:]} == {True, False}


async def test_on_a_server_that_ignores_salts_no_control_counts(bench):
    async with bench() as at:
        at.simulator.inject(faults.IgnoreSalts())
        result = await with_controls(at).play()
    outcomes = {turn.control.outcome for turn in result.turns[1:] if not turn.control.before_turn}
    assert outcomes == {ControlOutcome.NOT_COLD}
    for turn in result.turns[1:]:
        if turn.control.outcome is ControlOutcome.NOT_COLD:
            assert (turn.cold_ttft_seconds, turn.ttft_saved_seconds) == (None, None)


async def test_a_server_that_does_not_report_cached_tokens_has_no_control_that_counts(bench):
    async with bench(enable_prompt_tokens_details=False) as at:
        result = await with_controls(at).play()
    for turn in result.turns[1:]:
        assert turn.control.outcome is ControlOutcome.UNREPORTED
        assert turn.cold_ttft_seconds is None


async def test_a_control_that_fails_does_not_fail_its_session(bench):
    async with bench() as at:
        chat, seen = at.client.chat, []

        async def spoil_controls(request, *arguments, **named):
            control = request.cache_salt.startswith("control")
            if control:
                at.simulator.inject(faults.CutStream(after_chunks=1))
            try:
                return await chat(request, *arguments, **named)
            finally:
                if control:
                    seen.append(request.cache_salt)
                    at.simulator.clear(faults.CutStream)

        at.client.chat = spoil_controls
        result = await with_controls(at).play()
    assert result.failure is None
    assert len(set(seen)) == len(result.turns) - 1
    assert {turn.control.outcome for turn in result.turns[1:]} == {ControlOutcome.FAILED}
    assert all(turn.cold_ttft_seconds is None for turn in result.turns)


async def test_a_session_without_controls_has_none(bench):
    async with bench() as at:
        off = await with_controls(at, ratio=0.0).play()
        plain = await at.play()
    assert all(turn.control is None for turn in (*off.turns, *plain.turns))


def controlled(control, turns):
    """The turns of the next session that get a control."""
    chosen = [turn for turn in range(1, turns + 1) if control.place(turn, turns) is not None]
    control.session_ended(turns)
    return chosen


@given(
    ratio=st.floats(0, 1),
    turns=st.integers(2, 40),
    sessions=st.integers(1, 100),
    start=st.floats(0, 1, exclude_max=True),
)
def test_the_share_of_turns_is_exact_over_sessions_and_the_last_turns_have_it(
    ratio, turns, sessions, start
):
    control = ColdControl(ratio, lambda: start, lambda: "salt")
    played = [controlled(control, turns) for _ in range(sessions)]
    for chosen in played:
        assert chosen == list(range(turns + 1 - len(chosen), turns + 1))
        assert 1 not in chosen, "the first turn is cold by itself"
    due = min(ratio * turns, turns - 1)
    assert abs(sum(map(len, played)) - due * sessions) < 1 + 1e-6 or ratio * turns > turns - 1
    assert max(map(len, played)) - min(map(len, played)) <= 1


def test_a_ratio_of_1_is_every_turn_from_the_second_on():
    control = ColdControl(1.0, lambda: 0.0, lambda: "salt")
    assert [controlled(control, 8) for _ in range(3)] == [list(range(2, 9))] * 3


def test_the_default_is_the_last_turn_of_every_fourth_session():
    control = ColdControl(ProbeSettings().control_ratio, lambda: 0.0, lambda: "salt")
    assert [controlled(control, 8) for _ in range(8)] == [[], [], [], [8]] * 2


def test_targets_begin_at_different_sessions():
    """So a fleet that starts together does not send its controls together."""
    chance = random.Random(7).random
    fleet = [ColdControl(0.03125, chance, lambda: "salt") for _ in range(1000)]
    first = sum(bool(controlled(one, 8)) for one in fleet)
    assert first == 0, "a small cache has no room for it beside a new target's first work"
    for _ in range(3):
        assert sum(bool(controlled(one, 8)) for one in fleet) == pytest.approx(333, abs=60)


@pytest.mark.parametrize(("capacity", "turns"), [(80_000, [2]), (409_600, [8]), (None, [8])])
def test_where_room_is_scarce_a_control_goes_to_a_short_turn(capacity, turns):
    """A ratio of one in eight is one control in each session of eight turns."""
    control = ColdControl(0.125, lambda: 0.5, lambda: "salt")
    scarce = room_is_scarce(capacity)
    assert [turn for turn in range(1, 9) if control.place(turn, 8, scarce=scarce)] == turns


def test_whether_a_control_goes_first_is_a_fair_coin():
    control = ColdControl(1.0, random.Random(7).random, lambda: "salt")
    places = [control.place(2, 8) for _ in range(4000)]
    assert places.count(Place.BEFORE) == pytest.approx(2000, abs=100)
    assert set(places) == {Place.BEFORE, Place.AFTER}


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("tls", [None, server_tls()], ids=["http", "https"])
def test_the_times_of_a_session_and_its_controls_are_true_over_http_and_https(bench, loop, tls):
    async def scene():
        async with bench(time_scale=0.2, jitter_ratio=0.0) as at:
            async with (
                engine_proxy(lambda _path: at.simulator.url, tls=tls) as url,
                EngineClient(url, ca_file=AUTHORITY) as client,
            ):
                return await with_controls(replace(at, client=client)).play()

    with asyncio.Runner(loop_factory=loop) as runner:
        result = runner.run(scene())
    assert result.failure is None
    for turn in result.turns:
        assert 0 < turn.ttft_seconds < turn.latency_seconds
        assert turn.ttft_seconds + sum(turn.inter_token_seconds) <= turn.latency_seconds
    for turn in result.turns[1:]:
        assert turn.control.outcome is ControlOutcome.COLD
    # Over all turns: another process can slow down a single warm turn.
    saved = statistics.median(turn.ttft_saved_seconds for turn in result.turns[1:])
    assert 0 < saved < statistics.median(turn.cold_ttft_seconds for turn in result.turns[1:])
