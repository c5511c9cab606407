"""A recorded tool-calling trace against the simulator and a real vLLM."""

import json

import pytest
from scraper_bench import requests_to

from exporter.clock import SystemClock
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import Deadlines
from exporter.model.session import Notice
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.library import load_scenarios
from exporter.simulator.server import Simulator, SimulatorSettings

DEADLINES = Deadlines(connect=5, first_token=60, between_tokens=60, whole=120)


class OverheardClient(EngineClient):
    """Keeps what was asked of the engine and what it answered."""

    def __init__(self, url):
        super().__init__(url)
        self.asked = []
        self.answered = []

    async def chat(self, request, *arguments):
        self.asked.append([dict(message) for message in request.messages])
        chat = await super().chat(request, *arguments)
        self.answered.append(chat.message)
        return chat


async def play(url, *names, sessions=1, salt="salt", client=None):
    kind, *others = (one for name in names for one in load_scenarios(name))
    async with client or EngineClient(url) as open_client:
        plan = SessionPlan("t", kind, 8, DEADLINES, others=tuple(others))
        salts = iter(f"{salt}-{number}" for number in range(100))
        runner = SessionRunner(plan, requests_to(open_client), lambda: next(salts))
        return [await runner.play() for _ in range(sessions)]


def is_ideal(result):
    assert result.failure is None
    assert len(result.turns) >= 20
    assert all(turn.cached_tokens > 0 for turn in result.turns[1:])
    assert [turn.efficiency_ratio for turn in result.turns[1:]] == [1.0] * (len(result.turns) - 1)
    assert result.prefix.stable
    assert result.prefix.first_break is None
    # The schemas of seven tools alone are longer than the messages of the first request.
    assert result.turns[0].prompt_tokens > 500
    return True


async def test_a_recorded_trace_hits_its_ideal_on_the_simulator():
    settings = SimulatorSettings(port=0, time_scale=0.0, num_blocks=4096, max_model_len=32768)
    async with Simulator(settings) as engine:
        [result] = await play(engine.url, "tool-trace")
    assert is_ideal(result)


async def test_scenarios_are_played_in_rotation_and_a_short_context_shortens_them():
    settings = SimulatorSettings(port=0, time_scale=0.0, num_blocks=4096, max_model_len=2500)
    async with Simulator(settings) as engine:
        results = await play(engine.url, "document-review", "tool-trace", sessions=3)
    assert [one.scenario for one in results] == ["document-review", "tool-trace", "document-review"]
    assert results[1].failure is None
    assert 2 <= len(results[1].turns) < 20
    assert Notice.SCENARIO_SHORTENED in results[1].notices


async def test_a_first_prompt_below_two_blocks_gives_a_notice(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(
        '[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]'
    )
    async with Simulator(SimulatorSettings(port=0, time_scale=0.0, block_size=64)) as engine:
        [result] = await play(engine.url, str(path))
    assert Notice.OPENING_SHORT in result.notices


CONVERSATION = [
    {"role": "user", "content": "a question long enough to be answered"},
    {"role": "assistant", "content": "the recorded answer"},
    {"role": "user", "content": "and another"},
]


@pytest.mark.parametrize("replay", ["recorded", "own"])
async def test_the_history_holds_the_recorded_answers_or_the_engines_own(tmp_path, replay):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"messages": CONVERSATION, "replay": replay}))
    async with Simulator(SimulatorSettings(port=0, time_scale=0.0)) as engine:
        client = OverheardClient(engine.url)
        await play(engine.url, str(path), client=client)
    first, second = client.asked
    assert first == CONVERSATION[:1]
    answer = CONVERSATION[1] if replay == "recorded" else client.answered[0]
    assert second == [CONVERSATION[0], answer, CONVERSATION[2]]


@pytest.mark.vllm
async def test_a_recorded_trace_hits_its_ideal_on_a_real_vllm(vllm_servers):
    url = vllm_servers.get("details32")
    [result] = await play(url, "tool-trace", salt=f"trace-{SystemClock().time()}")
    assert is_ideal(result)
