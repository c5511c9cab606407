"""What the exporter knows of an engine's reuse rule after a restart of its own."""

from __future__ import annotations

import json
from functools import partial

import pytest
from fleet_bench import fleet_of, shared, target

from exporter.analysis.reuse.engine_knowledge import EngineKnowledge, Remembered
from exporter.analysis.reuse.learning import Hints, Observation
from exporter.analysis.reuse.rule import Earlier, Prefix
from exporter.cli.one_engine import engine_access
from exporter.clock import SystemClock
from exporter.config import Settings
from exporter.daemon.rules_file import RulesFile
from exporter.model.reuse import ReuseRule
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.request_scope import RequestScope
from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.faults import faults
from exporter.simulator.server import Simulator, SimulatorSettings

HITS = tuple(Observation(Prefix(100 + n, (Earlier(90 + n, 95 + n),)), 64) for n in range(3))


async def test_hits_are_known_again_for_the_same_process_of_the_same_target(tmp_path):
    path = tmp_path / "rules.json"
    await RulesFile(path).remember("a", Remembered(1700000000.25, HITS))
    again = RulesFile(path)
    assert again.recall("a", 1700000000.25) == Remembered(1700000000.25, HITS)
    assert again.recall("a", 1700000000.5) is None
    assert again.recall("b", 1700000000.25) is None


async def test_each_target_keeps_its_own_hits(tmp_path):
    file = RulesFile(tmp_path / "rules.json")
    await file.remember("a", Remembered(1.0, HITS[:1]))
    await file.remember("b", Remembered(2.0, HITS))
    again = RulesFile(tmp_path / "rules.json")
    assert again.recall("a", 1.0) == Remembered(1.0, HITS[:1])
    assert again.recall("b", 2.0) == Remembered(2.0, HITS)


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', '{"a": {"process_start_time": "x"}}'])
def test_a_file_that_is_not_one_of_these_counts_as_empty_and_is_named_in_the_log(
    tmp_path, content, capsys
):
    path = tmp_path / "rules.json"
    path.write_text(content, "utf-8")
    assert RulesFile(path).recall("a", 1.0) is None
    told = capsys.readouterr()
    assert "rules_file.unreadable" in told.out + told.err
    assert str(path) in told.out + told.err


async def test_a_folder_that_cannot_be_written_loses_nothing_but_the_file(tmp_path, capsys):
    file = RulesFile(tmp_path / "missing" / "rules.json")
    await file.remember("a", Remembered(1.0, HITS))
    assert file.recall("a", 1.0) == Remembered(1.0, HITS)
    told = capsys.readouterr()
    assert "rules_file.not_written" in told.out + told.err


async def test_as_many_hits_of_the_same_process_are_not_written_again(tmp_path):
    path = tmp_path / "rules.json"
    file = RulesFile(path)
    await file.remember("a", Remembered(1.0, HITS[:2]))
    path.unlink()
    await file.remember("a", Remembered(1.0, HITS[1:]))
    assert not path.exists()
    await file.remember("a", Remembered(1.0, HITS))
    assert RulesFile(path).recall("a", 1.0) == Remembered(1.0, HITS)
    await file.remember("a", Remembered(2.0, HITS[:1]))
    assert RulesFile(path).recall("a", 2.0) == Remembered(2.0, HITS[:1])


async def test_the_first_hit_of_a_process_is_written_also_without_a_hit_that_shows_the_rule(
    tmp_path,
):
    path = tmp_path / "rules.json"
    file = RulesFile(path)
    await file.remember("a", Remembered(1.0, ()))
    assert not path.exists()
    await file.remember("a", Remembered(1.0, (), hit=True))
    assert RulesFile(path).recall("a", 1.0) == Remembered(1.0, (), hit=True)


async def test_a_file_of_before_hits_were_kept_apart_shows_the_rule_alone(tmp_path):
    path = tmp_path / "rules.json"
    await RulesFile(path).remember("a", Remembered(1.0, HITS, hit=True))
    content = json.loads(path.read_bytes())
    del content["a"]["hit"]
    path.write_text(json.dumps(content), "utf-8")
    assert RulesFile(path).recall("a", 1.0) == Remembered(1.0, HITS, hit=False)


async def test_without_a_file_nothing_is_kept(tmp_path):
    file = RulesFile()
    await file.remember("a", Remembered(1.0, HITS))
    assert file.recall("a", 1.0) is None
    assert not list(tmp_path.iterdir())


async def test_the_hits_of_a_session_are_in_the_file_under_the_start_time_of_the_engine(tmp_path):
    path = tmp_path / "rules.json"
    settings = settings_like("eagle", SimulatorSettings(port=0, time_scale=0.0))
    async with Simulator(settings) as engine, fleet_of(RulesFile(path)) as bench:
        await bench.fleet.apply([target("a", engine.url)], shared())
        await bench.sessions_of("a", 1)
        await bench.until("the file", path.exists)
        (written,) = json.loads(path.read_bytes()).values()
    known = RulesFile(path).recall("a", written["process_start_time"])
    knowledge = EngineKnowledge(Hints(16, uneven=False, speculative=True, draft_tokens=3))
    knowledge.recall(known)
    assert knowledge.hit
    assert knowledge.learned is not None
    assert knowledge.learned.told == ReuseRule(16, 1, True, 0)


async def test_a_session_after_a_restart_of_the_exporter_knows_the_rule_from_its_second_turn(
    tmp_path,
):
    path = tmp_path / "rules.json"
    settings = settings_like("eagle", SimulatorSettings(port=0, time_scale=0.0))
    async with Simulator(settings) as engine:
        await a_session_of(engine, path)
        async with engine_access(Settings(), target("a", engine.url)) as access:
            requests = EngineRequests(
                access.requests.client,
                access.requests.observe,
                SystemClock(),
                recall=partial(RulesFile(path).recall, "a"),
            )
            view = await requests.observe()
            RequestScope(requests, await requests.client.info(), view)
        assert requests.knowledge.learned is not None
        assert requests.knowledge.learned.told == ReuseRule(16, 1, True, 0)


async def a_session_of(engine, path):
    """Run an exporter with this file for one session."""
    async with fleet_of(RulesFile(path)) as bench:
        await bench.fleet.apply([target("a", engine.url)], shared())
        await bench.sessions_of("a", 1)
        await bench.until("the file", path.exists)


@pytest.mark.parametrize("kind", ["eagle", "plain"])
async def test_a_cache_that_stops_while_the_exporter_restarts_is_wedged_and_not_one_that_never_hit(
    tmp_path, kind
):
    path = tmp_path / "rules.json"
    plain = SimulatorSettings(port=0, time_scale=0.0)
    settings = plain if kind == "plain" else settings_like(kind, plain)
    async with Simulator(settings) as engine:
        await a_session_of(engine, path)
        engine.inject(faults.Wedge())
        async with fleet_of(RulesFile(path)) as bench:
            await bench.fleet.apply([target("a", engine.url)], shared())
            await bench.sessions_of("a", 1)
            lost = partial(bench.value, "vllm_probe_lost_tokens_total", target="a")
            assert bench.value("vllm_probe_cache_wedged", target="a") == 1.0
            assert (lost(cause="wedged") or 0) > 0
            assert not lost(cause="never_hit")
