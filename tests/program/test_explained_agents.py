"""Agents made with real client libraries, recorded before a real vLLM, explained and replayed."""

import json

import anthropic
import openai
import pytest
from agent_recordings import CHANGES, Agent
from commands import LoopThread
from tool_agents import run_anthropic_agent, run_openai_agent

from exporter.capture.proxy import Proxy
from exporter.capture.recording_file import RecordingFile
from exporter.capture.serving import serving
from exporter.cli.main import main

pytestmark = pytest.mark.vllm

TURNS = 4
UNIT = 32
KEY = "sk-canary-of-a-user"
PLACES = {
    "time": "system",
    "date": "system",
    "id": "system",
    "counter": "system",
    "billing_line": "system",
    "tools_added": "tools",
    "tools_removed": "tools",
    "tools_reordered": "tools",
    "keys_reordered": "tools",
    "whitespace": "system",
    "history_truncated": "message",
    "history_compacted": "message",
    "text_edited": "message",
}


@pytest.fixture(scope="module")
def engine(vllm_servers):
    return vllm_servers.get("details32")


@pytest.fixture
def recorded(engine, tmp_path):
    """Records what a function does with the base URL of the proxy, and gives the file."""

    def record(agents):
        loop, file = LoopThread(), RecordingFile(tmp_path / "requests.jsonl", 1 << 30)
        serve = serving(Proxy(engine, file), "127.0.0.1", 0)
        loop.run(file.__aenter__())
        port = loop.run(serve.__aenter__())
        try:
            agents(f"http://127.0.0.1:{port}")
        finally:
            loop.run(serve.__aexit__(None, None, None))
            loop.run(file.__aexit__(None, None, None))
            loop.close()
        return file.path

    return record


def explained(file, engine, capsys):
    assert main(["explain", str(file), "--url", engine, "--replay", "--json"]) == 0
    out, told = capsys.readouterr()
    assert told == ""
    return json.loads(out)


def check_replay(said):
    """What can be reused is what the engine served, to within one block."""
    for one in said["requests"]:
        replayed = one["replayed"]
        assert replayed["failure"] is None
        assert replayed["prompt_tokens"] == one["prompt_tokens"]
        assert abs(replayed["cached_tokens"] - replayed["reusable_tokens"]) <= UNIT
        # While it was recorded the engine had computed the answers too.
        assert one["recorded"]["prompt_tokens"] == one["prompt_tokens"]


def by_conversation(said):
    found = {}
    for one in said["requests"]:
        found.setdefault(one["conversation"], []).append(one)
    return list(found.values())


@pytest.mark.parametrize("library", ["openai", "anthropic"])
def test_each_reason_that_was_planted_is_found_at_its_place(library, engine, recorded, capsys):
    def agents(url):
        for seed, reason in enumerate(CHANGES, start=1):
            agent = Agent(seed)
            if library == "openai":
                with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
                    run_openai_agent(client, agent, TURNS, CHANGES[reason])
            else:
                with anthropic.Anthropic(base_url=url, api_key=KEY) as client:
                    run_anthropic_agent(client, agent, TURNS, CHANGES[reason])

    file = recorded(agents)
    assert KEY not in file.read_text("utf-8")
    said = explained(file, engine, capsys)
    check_replay(said)
    conversations = by_conversation(said)
    assert [len(one) for one in conversations] == [TURNS] * len(CHANGES)
    found = {}
    for reason, requests in zip(CHANGES, conversations, strict=True):
        changed = [one["changes"][0] for one in requests if one["changes"]]
        found[reason] = {(each["reason"], each["place"]["section"]) for each in changed}
    assert found == {reason: {(reason, PLACES[reason])} for reason in CHANGES}


@pytest.mark.parametrize("library", ["openai", "anthropic"])
def test_a_clean_agent_has_nothing_to_change(library, engine, recorded, capsys):
    def agents(url):
        if library == "openai":
            with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
                run_openai_agent(client, Agent(101), TURNS)
        else:
            with anthropic.Anthropic(base_url=url, api_key=KEY) as client:
                run_anthropic_agent(client, Agent(102), TURNS)

    # No one else has used the texts of these agents, so what they hit is their own.
    said = explained(recorded(agents), engine, capsys)
    check_replay(said)
    assert said["findings"] == []
    assert said["totals"]["reusable_ratio"] == 1
    for one in said["requests"]:
        assert one["recorded"]["cached_tokens"] == one["reusable_tokens"]
        assert one["replayed"]["cached_tokens"] == one["replayed"]["reusable_tokens"]


def test_a_trace_is_replayed_with_the_same_sharing(engine, recorded, tmp_path, capsys):
    def agents(url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
            run_openai_agent(client, Agent(103), TURNS)

    trace = tmp_path / "trace.jsonl"
    with_texts = [str(recorded(agents)), "--url", engine]
    assert main(["explain", *with_texts, "--quiet", "--trace", str(trace)]) == 0
    capsys.readouterr()
    said = explained(trace, engine, capsys)
    assert len(said["requests"]) == TURNS
    for one in said["requests"]:
        assert one["replayed"]["prompt_tokens"] == one["prompt_tokens"]
        assert one["replayed"]["cached_tokens"] == one["reusable_tokens"]
    assert said["requests"][-1]["reusable_tokens"] > 0
