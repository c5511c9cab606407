"""KV events of a real vLLM and of the simulator: the same shape, and each cause agrees with them.

The oracle reads every event itself. It takes the blocks that are stored while a turn of the session
runs for the session's, and needs neither salts nor parents for that.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
import urllib.request

import msgspec
import pytest
import zmq
from kv_event_bench import free_ports, receiving
from scraper_bench import requests_to

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import Deadlines
from exporter.model.session import LossCause
from exporter.probe.session.plan import SessionHooks, SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.simulator.kv_events.settings import KvEventsConfig
from exporter.simulator.server import Simulator, SimulatorSettings

BLOCK, BLOCKS, CONTEXT = 32, 64, 1984
DEADLINES = Deadlines(connect=5, first_token=300, between_tokens=300, whole=600)
SETTLE_SECONDS = 0.4
"""Events are published a few milliseconds after an answer."""


class Served:
    """An engine with a small cache that publishes."""

    def __init__(self, url, events):
        self.url, self.events = url, events

    def ask(self, path, body=None):
        """The answer to a POST, or to a GET without a body."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=300) as answer:
            return json.load(answer)

    def reset(self):
        assert self.ask("/reset_prefix_cache", {})["success"]

    def others_ask(self, tokens, salt="canary-salt-of-others"):
        """A request of another client with about so many tokens."""
        model, word = self.ask("/v1/models")["data"][0]["id"], "file "
        each = self.ask("/tokenize", {"model": model, "prompt": word * 100})["count"] / 100
        text = f"{secrets.token_hex(4)} " + word * int(tokens / each)
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, "max_tokens": 1, "cache_salt": salt}
        usage = self.ask("/v1/chat/completions", body)["usage"]
        assert usage["prompt_tokens"] == pytest.approx(tokens, abs=100)


@pytest.fixture(scope="module", params=["simulated", pytest.param("real", marks=pytest.mark.vllm)])
def served(request, loop):
    port = free_ports(1)
    events, bound = f"tcp://127.0.0.1:{port}", f"tcp://*:{port}"
    if request.param == "simulated":
        settings = SimulatorSettings(
            port=0,
            time_scale=0.01,
            block_size=BLOCK,
            num_blocks=BLOCKS,
            max_model_len=CONTEXT,
            kv_events=KvEventsConfig(bound, "kv"),
        )
        simulator = Simulator(settings)
        loop.run(simulator.start())
        yield Served(simulator.url, events)
        loop.run(simulator.stop())
        return
    given = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": bound, "topic": "kv"}
    server = request.getfixturevalue("vllm_servers").start_kind(
        *("plain", "--num-gpu-blocks-override", str(BLOCKS)),
        *("--kv-events-config", json.dumps(given)),
        MAX_LEN=str(CONTEXT),
        VLLM_SERVER_DEV_MODE="1",
    )
    yield Served(server.url, events)
    server.stop()


class Oracle:
    """Every event, as it was published. `take` gives those since the last call."""

    def __init__(self, url):
        self.socket = zmq.Context.instance().socket(zmq.SUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"kv")
        self.socket.connect(url)
        self.sequence = []
        self.stored, self.gone, self.cleared = set(), set(), False

    def take(self):
        time.sleep(SETTLE_SECONDS)
        events = []
        with contextlib.suppress(zmq.Again):
            while True:
                topic, number, payload = self.socket.recv_multipart(zmq.NOBLOCK)
                batch = msgspec.msgpack.decode(payload)
                assert (topic, len(number), len(batch)) == (b"kv", 8, 3)
                assert isinstance(batch[0], float)
                assert batch[2] == 0
                self.sequence.append(int.from_bytes(number, "big"))
                events += batch[1]
        return events

    def others_ran(self):
        """Note which blocks of the session are gone, after other clients ran."""
        for event in self.take():
            if event["type"] == "BlockRemoved":
                self.gone |= self.stored & set(event["block_hashes"])
            self.cleared = self.cleared or event["type"] == "AllBlocksCleared"

    def turn_ran(self):
        """Note the blocks of a turn of the session. What the turn itself removed was gone too."""
        for event in self.take():
            if event["type"] == "BlockStored":
                self.stored |= set(event["block_hashes"])
            elif event["type"] == "BlockRemoved":
                self.gone |= self.stored & set(event["block_hashes"])
            self.cleared = self.cleared or event["type"] == "AllBlocksCleared"


@contextlib.contextmanager
def watching(served):
    oracle = Oracle(served.events)
    try:
        time.sleep(SETTLE_SECONDS)
        yield oracle
        assert oracle.sequence == list(range(oracle.sequence[0], oracle.sequence[-1] + 1))
    finally:
        oracle.socket.close()


async def played(served, before_turn):
    """A session; `before_turn` is called with the oracle before each turn, and what it said then."""
    said = []
    with watching(served) as oracle:

        def start(index, _turns):
            before_turn(oracle, index)
            oracle.others_ran()

        def ended(facts):
            oracle.turn_ran()
            said.append((facts, len(oracle.gone), oracle.cleared))
            oracle.gone, oracle.cleared = set(), False

        async with receiving(served.events) as feed, EngineClient(served.url) as client:
            requests = requests_to(client, kv_events=feed)
            # As long as the context allows, so that the cache has no room for others beside it.
            plan = SessionPlan("t", CODING_AGENT, 32, DEADLINES, opening=lambda _unit, _room: 2048)
            runner = SessionRunner(plan, requests, lambda: secrets.token_hex(16))
            await runner.play()
            oracle.take()
            result = await runner.play(SessionHooks(on_turn_start=start, on_turn=ended))
            assert result.failure is None
            assert feed.view.missed == 0
    return said


async def test_each_eviction_agrees_with_the_blocks_that_were_removed(served):
    others = {3: 900, 4: 1500, 5: 300, 6: 1100, 8: 600}

    def before_turn(_oracle, index):
        if index in others:
            served.others_ask(others[index])

    said = await played(served, before_turn)
    lost = [facts for facts, _, _ in said if facts.loss is not None]
    assert len(lost) > 1
    for facts, gone, cleared in said:
        assert not cleared
        if facts.loss is None:
            continue
        assert facts.loss.cause is LossCause.EVICTED
        told = re.search(r"removed (\d+) of this session's (\d+) blocks", facts.loss.evidence)
        assert told is not None, facts.loss.evidence
        assert int(told[1]) == gone == facts.loss.tokens // BLOCK
        assert int(told[2]) * BLOCK == facts.attainable_cached_tokens
    assert {facts.index for facts in lost} >= {4}


async def test_a_reset_is_told_by_the_engine_also_among_other_traffic(served):
    def before_turn(_oracle, index):
        if index == 5:
            served.reset()
            served.others_ask(1500)

    said = await played(served, before_turn)
    (turn,) = [each for each in said if each[0].loss is not None]
    facts, _, cleared = turn
    assert (facts.index, facts.loss.cause, cleared) == (5, LossCause.RESET, True)
    assert "(AllBlocksCleared)" in facts.loss.evidence


def test_the_events_have_the_same_fields_and_the_same_order(served):
    with watching(served) as oracle:
        served.others_ask(1500)
        oracle.take()
        served.others_ask(300, "salt-of-the-contract")
        events = oracle.take()
        served.reset()
        assert oracle.take() == [], "the reset is published with the next step"
        served.others_ask(40)
        after = oracle.take()
    kinds = [event["type"] for event in events]
    assert kinds[-1] == "BlockStored"
    assert set(kinds[:-1]) == {"BlockRemoved"}
    first = after[0]
    assert first == {"type": "AllBlocksCleared"}
    (stored,) = [event for event in events if event["type"] == "BlockStored"]
    removed = events[0]
    count = len(stored["block_hashes"])
    assert count > 4
    assert stored == {
        "type": "BlockStored",
        "block_hashes": stored["block_hashes"],
        "parent_block_hash": None,
        "token_ids": stored["token_ids"],
        "block_size": BLOCK,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [["salt-of-the-contract"], *[None] * (count - 1)],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }
    assert len(stored["token_ids"]) == count * BLOCK
    assert len(set(stored["block_hashes"])) == count
    hashes = removed.pop("block_hashes")
    assert removed == {"type": "BlockRemoved", "medium": "GPU", "group_idx": 0}
    assert [0 < one < 1 << 64 for one in [*hashes, *stored["block_hashes"]]] == [True] * (count + 1)
