"""`--kv-events-url` of `probe` and `check`, and vLLM's own flag of `simulate`."""

from __future__ import annotations

import contextlib

import pytest
from commands import LoopThread, run_command

from exporter.cli import simulate
from exporter.errors import ConfigError
from exporter.simulator.kv_events.settings import KvEventsConfig, parse_kv_events_config
from exporter.simulator.server import Simulator, SimulatorSettings


@pytest.fixture
def engine():
    """A simulated engine in a thread that publishes."""
    loop, stack = LoopThread(), contextlib.AsyncExitStack()
    settings = SimulatorSettings(
        port=0, time_scale=0, kv_events=KvEventsConfig("tcp://127.0.0.1:*")
    )
    simulator = loop.run(stack.enter_async_context(Simulator(settings)))
    yield simulator
    loop.run(stack.aclose())
    loop.close()


def test_check_says_whether_the_events_arrive(engine):
    url, events = engine.url, engine.engine.kv_events_endpoint
    result = run_command("check", "--url", url, "--kv-events-url", events, "--json")
    tests = {test["name"]: test for test in result.json["tests"]}
    assert (result.code, tests["kv_events"]["verdict"]) == (0, "pass")
    without = run_command("check", "--url", url, "--json")
    assert "kv_events" not in {test["name"] for test in without.json["tests"]}


def test_probe_plays_its_session_with_and_without_events(engine):
    url, events = engine.url, engine.engine.kv_events_endpoint
    for more in ([], ["--kv-events-url", events]):
        result = run_command("probe", "--url", url, "--json", *more)
        assert (result.code, len(result.json["turns"])) == (0, 8)


@pytest.mark.parametrize("command", ["probe", "check"])
def test_a_wrong_address_is_reported_with_the_name_of_the_option(command):
    result = run_command(command, "--url", "http://127.0.0.1:9", "--kv-events-url", "tcp://*:5557")
    assert result.code == 2
    assert '--kv-events-url = "tcp://*:5557": must be "tcp://HOST:PORT"' in result.errors


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ('{"enable_kv_cache_events": true}', KvEventsConfig("tcp://*:5557", "")),
        (
            '{"enable_kv_cache_events": true, "endpoint": "tcp://*:1", "topic": "kv", "hwm": 5}',
            KvEventsConfig("tcp://*:1", "kv"),
        ),
        ('{"enable_kv_cache_events": false, "endpoint": "tcp://*:1"}', None),
        ('{"enable_kv_cache_events": true, "publisher": "null"}', None),
    ],
)
def test_the_simulator_reads_vllms_flag(text, config):
    assert parse_kv_events_config(text) == config


@pytest.mark.parametrize("text", ["", "tcp://*:5557", "[]"])
def test_what_is_no_json_object_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="enable_kv_cache_events"):
        parse_kv_events_config(text)


def test_simulate_says_which_extra_it_needs(monkeypatch):
    monkeypatch.setattr(simulate, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="pip install 'pyzmq"):
        simulate._kv_events('{"enable_kv_cache_events": true}')
    assert simulate._kv_events(None) is None
