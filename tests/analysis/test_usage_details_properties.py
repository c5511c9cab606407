"""What an answer without cached tokens means, for every order of answers and as recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from silent_engine import Engine, answer, asked, requests_of

from exporter.analysis.hits.usage_details import always_reports
from exporter.engine.wire.surfaces.chat_completions import ChatAnswer
from exporter.model.session import Notice

servers = st.builds(
    Engine,
    version=st.sampled_from([None, "0.9.2", "0.17.1", "0.23.0", "0.24.0", "0.32.0"]),
    flag=st.booleans(),
    late=st.integers(0, 3),
    says_start=st.booleans(),
)


steps = st.lists(
    st.one_of(
        st.integers(0, 1).map(lambda hit: 800 * hit),
        st.tuples(st.integers(0, 2000), st.integers(0, 2000)),  # others
        st.sampled_from(["session", "restart", "restart without flag", "restart with flag"]),
        st.booleans(),  # whether its page can be read
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=400)
@given(engine=servers, steps=steps, from_counters=st.booleans(), readable=st.booleans())
def test_no_settled_value_is_wrong_and_no_notice_is_false(engine, steps, from_counters, readable):
    asyncio.run(_play(engine, steps, from_counters=from_counters, readable=readable))


async def _play(engine, steps, *, from_counters, readable):
    engine.readable = readable
    requests = requests_of(engine, from_counters=from_counters)
    at, truth, flags = await asked(engine, requests), [], []
    for step in steps:
        if isinstance(step, bool):
            engine.readable = step
        elif isinstance(step, tuple):
            engine.others_between = (max(step), min(step))
        elif isinstance(step, str):
            if step != "session":
                flag = {"restart": engine.flag}.get(step, step.endswith("with flag"))
                engine.restart(flag=flag)
            # A restart that nobody can see ends the session: its connections are cut.
            if step == "session" or at.scope._known is None:
                at, truth, flags = await asked(engine, requests), [], []
        else:
            await at.ask(step)
            truth.append(step)
            flags.append(engine.flag)
        for known, true in zip(at.cached(), truth, strict=True):
            assert known in (None, true)
        notice = at.notice()
        if notice is Notice.USAGE_DETAILS_MISSING:
            assert not all(flags)
        if notice is Notice.CACHED_FROM_COUNTERS:
            assert from_counters
            assert not all(flags)
        share = requests.share
        assert share.hit_tokens <= engine.hits or engine.restarts
        assert share.unsettled >= 0


VERSIONS = Path(__file__).parents[1] / "engine" / "data" / "versions"


# Not 0.8.5: it was recorded on a CPU, where its V0 engine tells no cached tokens.
RECORDED = sorted({each.parent.name for each in VERSIONS.glob("*/chat_repeat.sse")} - {"0.8.5"})


def recorded(version, name):
    answer = ChatAnswer()
    for line in (VERSIONS / version / name).read_text().splitlines():
        if line.startswith("data: "):
            answer.add(line.removeprefix("data: ").encode(), 1.0)
    assert answer.usage is not None
    return answer.usage


@pytest.mark.parametrize("version", RECORDED)
async def test_a_recorded_prompt_and_its_repeat_are_settled(version):
    told = json.loads((VERSIONS / version / "version.json").read_text())["version"]
    engine = Engine(told, readable=False)
    usages = [recorded(version, "chat.sse"), recorded(version, "chat_repeat.sse")]
    assert (usages[0].cached_tokens is None) is not always_reports(told)

    async def chat(*_arguments):
        return answer(usages.pop(0))

    engine.chat = chat
    at = await asked(engine)
    assert await at.ask(0, 256) == [0, 256]
    assert at.notice() is None
