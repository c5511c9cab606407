"""What a user adds to the requests, in sessions, controls, repeats, isolation and retention."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from load_views import load_policy, new_admission
from probe_loops import ProbeLoops

from exporter.clock import SystemClock
from exporter.engine.wire.additions import Additions
from exporter.probe.isolation import run_isolation_test
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.runner import SessionRunner
from exporter.simulator.faults import faults

if TYPE_CHECKING:
    from exporter.engine.wire.request import RequestContext

NO_THINKING = Additions(body={"chat_template_kwargs": {"enable_thinking": False}})


def contexts_of_requests(at) -> list[RequestContext]:
    """A list that gets the context of each chat request to come."""
    seen: list[RequestContext] = []
    send = at.client.chat

    async def noted(request, *arguments):
        seen.append(request.context)
        return await send(request, *arguments)

    at.client.chat = noted
    return seen


async def test_turns_controls_and_repeats_of_a_session_share_its_id(bench):
    async with bench() as at:
        await at.play()
        seen = contexts_of_requests(at)
        control = ColdControl(1.0, lambda: 0.0, at.new_salt)
        runner = SessionRunner(at.plan, at.requests, at.new_salt, control=control)
        await runner.play()
        at.simulator.inject(faults.Wedge())  # turns that miss are sent again
        await runner.play()
    first, second = dict.fromkeys(context.session for context in seen)
    assert Counter(context.turn for context in seen if context.session == first) == {
        1: 1,
        **dict.fromkeys(range(2, 9), 2),
    }
    of_second = Counter(context.turn for context in seen if context.session == second)
    assert of_second[2] > 2, "the turn, its control and its repeats"


async def test_the_two_salts_of_an_isolation_test_share_one_id(bench):
    async with bench() as at:
        info = await at.client.info()
        seen = contexts_of_requests(at)
        for _ in range(2):
            await run_isolation_test(at.requests, info, at.plan.deadlines, at.new_salt)
    assert Counter(context.session for context in seen).most_common() == [
        (seen[0].session, 3),
        (seen[-1].session, 3),
    ]


async def test_a_retention_round_is_a_session_of_its_own(bench):
    async with bench() as at:
        await at.play()
        admission = new_admission(at.requests.observe, SystemClock(), load_policy(0))
        loops = ProbeLoops(SystemClock(), admission, at.requests, new_salt=at.new_salt)
        seen = contexts_of_requests(at)
        await loops.retention_probe((0.01, 0.02)).round(lambda: None)
    assert list(Counter(context.session for context in seen).values()) == [3]


@pytest.mark.parametrize("version", ["0.32.0", "0.9.2"])
async def test_prompts_are_compared_as_the_users_template_variables_render_them(bench, version):
    """The older release sends no ids, so /tokenize renders the prompts."""
    async with bench(version=version, additions=NO_THINKING) as at:
        result = await at.play()
    assert result.failure is None
    assert all(turn.ideal_cached_tokens is not None for turn in result.turns)
    assert all(turn.loss is None for turn in result.turns)
    assert result.prefix is not None
    assert not result.prefix.stable, "each prompt ends with reasoning that the next one lacks"


async def test_each_turn_has_the_id_of_its_own_request(bench):
    async with bench() as at:
        result = await at.play()
    ids = [turn.request_id for turn in result.turns]
    assert None not in ids
    assert len(set(ids)) == 8


async def test_a_turn_that_fails_has_the_id_of_its_request(bench):
    async with bench() as at:

        def fail_turn_4(facts):
            if facts.index == 3:
                at.simulator.inject(faults.Errors(status=500))

        result = await at.play(fail_turn_4)
    assert (result.failed_turn, len(result.turns)) == (4, 3)
    assert result.failed_request_id is not None
    assert result.failed_request_id not in {turn.request_id for turn in result.turns}
