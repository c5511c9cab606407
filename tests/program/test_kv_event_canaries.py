"""KV events carry the token ids and salts of all clients. Nothing of others is kept or shown."""

from __future__ import annotations

import asyncio
import gc
import json
import types

import msgspec
import zmq
from kv_event_bench import free_ports, receiving, until

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.model.kv_events import KvEventKind
from exporter.simulator.kv_events.settings import KvEventsConfig
from exporter.simulator.server import Simulator, SimulatorSettings
from exporter.simulator.text import tokens

SALT = "canarySaltOfAUserThatNobodyMaySee"
PROMPT = "canaryPromptOfAUserThatNobodyMaySee " * 40
IDS = [910_001, 910_002, 910_003, 910_004] * 8
DEADLINES = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)
PATHS = (
    *("/", "/metrics", "/api/v1/sessions", "/api/v1/targets", "/?target=sound", "/-/ready"),
    *("/api/v1/openapi.json", "/api/v1/http-sd"),
)
CONFIGURATION = """
[probe]
interval_seconds = 1
tokens_per_hour = 0
max_cache_turnover_per_hour = 0
max_prefill_share_ratio = 1
control_ratio = 0
[scrape]
interval_seconds = 0.5
timeout_seconds = 0.5
[[targets]]
name = "sound"
url = "{url}"
kv_events_url = "{events}"
"""


async def others_ask(client, until_done, who):
    """Prompts of another client, which evict those of the exporter's sessions."""
    number = 0
    while not until_done.is_set():
        number += 1
        message = {"role": "user", "content": f"{who} {number} {PROMPT}"}
        await client.chat(ChatRequest("simulated", [message], 1, SALT), DEADLINES)


def canaries_in(text: str) -> set[str]:
    ids = tokens.encode(PROMPT)[:8]
    found = {one for one in (SALT, PROMPT[:35]) if one.lower() in text.lower()}
    shown = {", ".join(map(str, ids)), ",".join(map(str, ids)), SALT.encode().hex()}
    return found | {one for one in shown if one in text}


async def test_no_output_of_the_daemon_has_a_token_or_a_salt_of_others(daemon, tmp_path):
    done = asyncio.Event()
    settings = SimulatorSettings(
        port=0, time_scale=0.02, num_blocks=112, kv_events=KvEventsConfig("tcp://127.0.0.1:*")
    )
    file, log = tmp_path / "exporter.toml", tmp_path / "log"
    async with Simulator(settings) as simulator, EngineClient(simulator.url) as client:
        events = simulator.engine.kv_events_endpoint
        text = CONFIGURATION.format(url=simulator.url, events=events)
        file.write_text(text, encoding="utf-8")
        others = asyncio.gather(*(others_ask(client, done, who) for who in range(3)))
        try:
            async with daemon(log, "--config", str(file), "--log.level", "debug") as at:

                async def evicted():
                    _, page = await at.get("/api/v1/sessions")
                    return "(BlockRemoved)" in page

                await at.until("events proved an eviction", evicted)
                pages = {path: (await at.get(path))[1] for path in PATHS}
                assert await at.stop() == 0
        finally:
            done.set()
            await others
    assert 'loop="kv_events:sound"' in pages["/metrics"]
    assert 'vllm_engine_kv_events_total{event="removed",target="sound"}' in pages["/metrics"]
    pages["the log"] = log.read_text("utf-8")
    assert "kv_events.connected" in pages["the log"]
    assert {place: seen for place, page in pages.items() if (seen := canaries_in(page))} == {}


def reachable(*roots):
    """Every object that can be reached, without modules and what belongs to classes and code."""
    seen, waiting = {}, list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, types.ModuleType | type | types.FunctionType):
            continue
        seen[id(one)] = one
        waiting += gc.get_referents(one)
    return seen.values()


async def test_no_object_in_memory_has_a_token_or_a_salt_of_others():
    port = free_ports(1)
    engine = zmq.Context.instance().socket(zmq.PUB)
    engine.setsockopt(zmq.LINGER, 0)
    engine.bind(f"tcp://127.0.0.1:{port}")

    def send(number, salt, hashes):
        event = {
            "type": "BlockStored",
            "block_hashes": hashes,
            "parent_block_hash": None,
            "token_ids": IDS,
            "block_size": 16,
            "medium": "GPU",
            "lora_name": SALT,
            "extra_keys": [[SALT, salt], None],
        }
        payload = msgspec.msgpack.encode([1.5, [event, list(event.values())], 0])
        engine.send_multipart((b"", number.to_bytes(8, "big"), payload))

    try:
        async with receiving(f"tcp://127.0.0.1:{port}") as feed:
            await asyncio.sleep(0.3)  # for the subscription
            blocks = feed.follow("ours")
            for number in range(50):
                send(number, "ours" if number == 25 else "theirs", [number, 1000 + number])
            await until(lambda: feed.view.events[KvEventKind.STORED] >= 50)
            assert set(blocks._first) == {25, 1025}
            (loop,) = [t for t in asyncio.all_tasks() if "KvEventSubscriber" in repr(t)]
            kept = list(reachable(feed, loop.get_coro().cr_frame.f_locals))
            assert len(kept) > 100
            told = {one for one in kept if isinstance(one, str | bytes | int)}
            assert not told & {*IDS, SALT, SALT.encode(), "theirs"}
            assert not [one for one in told if isinstance(one, bytes) and SALT.encode() in one]
            assert {25, 1025} <= told
    finally:
        engine.close()


def test_the_canaries_would_be_found():
    ids = tokens.encode(PROMPT)
    assert canaries_in(json.dumps(ids))
    assert canaries_in(f"the salt {SALT.upper()} was seen")
