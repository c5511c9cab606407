"""Which targets start, stop and stay when the list of targets changes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from fleet_bench import shared, simulator
from recorded_sinks import RecordedLoop
from structlog.testing import capture_logs

from exporter.config import ProbeSettings, ScrapeSettings, Target
from exporter.daemon.fleet import FleetChanges
from exporter.daemon.shared_settings import shared_settings_of
from exporter.errors import ConfigError
from exporter.simulator.faults import faults

AUTHORITY = Path(__file__).parents[1] / "web" / "certificates" / "ca.pem"


def target(name: str, url: str, **more: object) -> Target:
    return Target(name=name, url=url, **more)


async def test_a_target_with_the_same_settings_keeps_running(bench, engines):
    a, b = (engine.url for engine in engines[:2])
    await bench.fleet.apply([target("a", a)])
    await bench.sessions_of("a", 1)
    before, sessions = dict(bench.tasks), bench.value("vllm_probe_sessions_total", target="a")
    changes = await bench.fleet.apply([target("b", b), target("a", a)])
    assert changes == FleetChanges(added=("b",), kept=("a",))
    assert {name: bench.tasks[name] for name in before} == before
    assert not any(task.done() for task in before.values())
    assert bench.value("vllm_probe_sessions_total", target="a") >= sessions
    await bench.sessions_of("b", 1)
    assert not await bench.fleet.apply([target("a", a), target("b", b)]), "only the order changed"


async def test_a_removed_target_leaves_no_series_no_session_and_no_task(bench, engines):
    a, b = (engine.url for engine in engines[:2])
    await bench.fleet.apply([target("a", a), target("b", b)])
    await bench.sessions_of("a", 1)
    await bench.sessions_of("b", 1)
    assert any("scrape:a" in each for each in bench.series_of("a"))
    assert bench.history.sessions("a")
    changes = await bench.fleet.apply([target("b", b)])
    assert changes == FleetChanges(retired=("a",), kept=("b",))
    assert bench.series_of("a") == []
    assert bench.history.sessions("a") == []
    assert bench.loops() == {"scrape:b", "probe:b"}
    assert bench.value("vllm_probe_sessions_total", target="b") >= 1
    await bench.sessions_of("b", 3)
    assert bench.series_of("a") == [], "nothing came back"


async def test_a_changed_target_keeps_the_counters_of_the_same_engine(bench, engines):
    url = engines[0].url
    await bench.fleet.apply([target("a", url)])
    await bench.sessions_of("a", 2)
    sessions = bench.value("vllm_probe_sessions_total", target="a")
    queried = bench.value("vllm_engine_prefix_cache_queried_tokens_total", target="a")
    before = dict(bench.tasks)
    changes = await bench.fleet.apply([target("a", url, api_key="another")])
    assert changes == FleetChanges(changed=("a",))
    assert all(task.done() for task in before.values())
    assert bench.value("vllm_probe_sessions_total", target="a") == sessions
    assert len(bench.history.sessions("a")) == sessions
    await bench.sessions_of("a", int(sessions) + 2)
    assert bench.value("vllm_engine_prefix_cache_queried_tokens_total", target="a") > queried
    assert bench.value("vllm_engine_restarts_total", target="a") == 0


def price_of(bench, name: str) -> float | None:
    return bench.fleet._running[name]._state.cost.prices.price_per_hour


async def test_another_price_applies_at_once_and_ends_no_loop(bench, engines):
    url = engines[0].url
    await bench.fleet.apply([target("a", url, price_per_hour=2.0, currency="EUR")])
    await bench.sessions_of("a", 1)
    before = dict(bench.tasks)
    dearer = target("a", url, price_per_hour=3.0, currency="EUR")
    assert await bench.fleet.apply([dearer]) == FleetChanges(changed=("a",))
    assert price_of(bench, "a") == 3
    assert await bench.fleet.apply([dearer]) == FleetChanges(kept=("a",))
    assert await bench.fleet.apply([target("a", url)]) == FleetChanges(changed=("a",))
    assert price_of(bench, "a") is None
    assert dict(bench.tasks) == before
    assert not any(task.done() for task in before.values())


async def test_other_labels_apply_at_once_and_end_no_loop(bench, engines):
    url = engines[0].url
    await bench.fleet.apply([target("a", url, labels={"team": "x"})])
    await bench.sessions_of("a", 1)
    before = dict(bench.tasks)
    assert bench.value("vllm_probe_up", target="a", team="x") == 1
    moved = target("a", url, labels={"team": "y", "gpu": "h100"})
    assert await bench.fleet.apply([moved]) == FleetChanges(changed=("a",))
    assert bench.value("vllm_probe_up", target="a", team="y", gpu="h100") == 1
    assert bench.value("vllm_probe_up", target="a", team="x") is None
    assert dict(bench.tasks) == before


async def test_a_price_applies_only_with_the_whole_change(bench, engines):
    url = engines[0].url
    await bench.fleet.apply([target("a", url, price_per_hour=2.0, currency="EUR")])

    async def refuse() -> None:
        raise ConfigError("no")

    dearer = target("a", url, price_per_hour=3.0, currency="EUR")
    with pytest.raises(ConfigError):
        await bench.fleet.apply([dearer], commit=refuse)
    assert price_of(bench, "a") == 2


async def test_the_totals_over_engine_restarts_survive_a_change(bench, engines):
    url = engines[0].url
    await bench.fleet.apply([target("a", url)])
    await bench.sessions_of("a", 2)
    engines[0].inject(faults.Restart(down_seconds=0.1))
    await bench.until(
        "the restart was seen",
        lambda: bench.value("vllm_engine_restarts_total", target="a") == 1,
    )
    queried = bench.value("vllm_engine_prefix_cache_queried_tokens_total", target="a")
    await bench.fleet.apply([target("a", url, api_key="another")])
    sessions = bench.value("vllm_probe_sessions_total", target="a")
    await bench.sessions_of("a", int(sessions) + 1)
    assert bench.value("vllm_engine_restarts_total", target="a") == 1
    assert bench.value("vllm_engine_prefix_cache_queried_tokens_total", target="a") >= queried


@pytest.mark.parametrize("mended", [0, 10**9])
async def test_a_raised_budget_applies_at_once(bench, engines, mended):
    wanted = [target("a", engines[0].url)]
    await bench.fleet.apply(wanted, shared(tokens_per_hour=1))
    await bench.sessions_of("a", 1)
    await bench.until(
        "the budget holds sessions back",
        lambda: bench.value("vllm_probe_paused", target="a", reason="budget") == 1,
    )
    assert bench.value("vllm_probe_sessions_total", target="a") == 1
    await bench.fleet.apply(wanted, shared(tokens_per_hour=mended))
    await bench.sessions_of("a", 3)


async def test_retention_values_of_removed_gaps_disappear(bench, engines):
    wanted, gap = [target("a", engines[0].url)], {"target": "a", "gap_seconds": "2"}
    measured = shared(retention_gaps_seconds=(2.0,))
    await bench.fleet.apply(wanted, measured)
    await bench.until(
        "the retention was measured", lambda: bench.value("vllm_probe_retention_ratio", **gap)
    )
    await bench.fleet.apply(wanted, shared(retention_gaps_seconds=(500.0,)))
    assert bench.value("vllm_probe_retention_ratio", **gap) is None


async def test_series_of_a_removed_scenario_disappear(bench, engines):
    wanted = [target("a", engines[0].url)]
    review = {"target": "a", "scenario": "document-review"}
    agent = {"target": "a", "scenario": "coding-agent"}
    await bench.fleet.apply(wanted, shared(scenario="document-review"))
    await bench.sessions_of("a", 1)
    assert bench.value("vllm_probe_prefix_stable", **review) == 1
    await bench.fleet.apply(wanted, shared(scenario="coding-agent"))
    assert bench.value("vllm_probe_prefix_stable", **review) is None
    assert bench.value("vllm_probe_scenario_up", **review) is None
    await bench.sessions_of("a", 2)
    assert bench.value("vllm_probe_prefix_stable", **agent) == 1


async def test_a_session_cut_off_by_a_change_counts_as_consumed(bench):
    async with simulator(time_scale=0.2) as engine:
        await bench.fleet.apply([target("a", engine.url)])
        await bench.until(
            "a second turn is under way",
            lambda: bench.value("vllm_engine_prefix_cache_hit_tokens_total", target="a"),
        )
        engine.inject(faults.Hang())
        assert bench.value("vllm_probe_consumed_tokens_total", target="a") is None
        await bench.fleet.apply([target("a", engine.url, api_key="another")])
        assert bench.value("vllm_probe_sessions_total", target="a") == 0
        assert bench.value("vllm_probe_consumed_tokens_total", target="a") > 400
        await bench.fleet.apply([])


async def test_a_fleet_at_the_limit_of_the_whole_page_keeps_it_while_one_takes_anothers_place(
    bench, engines
):
    bench.metrics.limit_whole_page(1)
    await bench.fleet.apply([target("a", engines[0].url)])
    with capture_logs() as logs:
        await bench.fleet.apply([target("b", engines[1].url)])
    assert [each["event"] for each in logs if each["event"].startswith("metrics.")] == []


async def test_another_engine_with_the_same_name_starts_at_zero(bench, engines):
    await bench.fleet.apply([target("a", engines[0].url)])
    await bench.sessions_of("a", 2)
    changes = await bench.fleet.apply([target("a", engines[1].url)])
    assert changes == FleetChanges(changed=("a",))
    assert bench.value("vllm_probe_sessions_total", target="a") == 0
    assert bench.history.sessions("a") == []
    await bench.sessions_of("a", 1)


async def test_the_series_of_a_removed_loop_disappear(bench, engines):
    wanted = target("a", engines[0].url)
    scrape = ScrapeSettings(interval_seconds=0.2, timeout_seconds=0.2)
    probe = {
        "interval_seconds": 1.0,
        "retention_gaps_seconds": (),
        "tokens_per_hour": 0,
        "max_cache_turnover_per_hour": 0,
        "heartbeat_interval_seconds": 0,
    }
    await bench.fleet.apply(
        [wanted], shared_settings_of(ProbeSettings(**probe, isolation_interval_seconds=0.5), scrape)
    )
    await bench.until(
        "salts were tried",
        lambda: any("isolation:a" in each for each in bench.series_of("a")),
    )
    await bench.fleet.apply(
        [wanted], shared_settings_of(ProbeSettings(**probe, isolation_interval_seconds=0), scrape)
    )
    assert not any("isolation:a" in each for each in bench.series_of("a"))
    assert bench.loops() == {"scrape:a", "probe:a"}


async def test_new_content_of_a_file_is_a_change(bench, engines, tmp_path):
    scenario = tmp_path / "short.json"
    one_turn = '{"role": "user", "content": "%s"}, {"role": "assistant", "content": "yes"}'
    text = f'{{"messages": [{one_turn}, {one_turn}]}}'

    def written(words: str):
        scenario.write_text(text % (words, words))
        probe = ProbeSettings(scenario=str(scenario), interval_seconds=1.0)
        return shared_settings_of(probe, ScrapeSettings())

    wanted = [target("a", engines[0].url)]
    assert await bench.fleet.apply(wanted, written("one")) == FleetChanges(added=("a",))
    assert await bench.fleet.apply(wanted, written("one")) == FleetChanges(kept=("a",))
    assert await bench.fleet.apply(wanted, written("two")) == FleetChanges(changed=("a",))


async def test_one_target_that_cannot_be_created_changes_nothing(bench, engines, tmp_path):
    a, b, c = (engine.url for engine in engines)
    await bench.fleet.apply([target("a", a), target("b", b)])
    await bench.sessions_of("a", 1)
    before = dict(bench.tasks)
    files = [tmp_path / name for name in ("one.pem", "two.pem")]
    files[0].write_text("no certificate")
    bad = [target(file.stem, "https://127.0.0.1:1", ca_file=file) for file in files]
    with pytest.raises(ConfigError) as caught:
        await bench.fleet.apply([target("a", c), *bad])
    assert "'one'" in str(caught.value)
    assert "'two'" in str(caught.value), "all mistakes at once"
    assert bench.fleet.names == ("a", "b")
    assert bench.tasks == before
    assert not any(task.done() for task in before.values())
    assert bench.series_of("one") == []


async def test_found_targets_are_measured_while_another_targets_certificates_change(
    bench, engines, tmp_path
):
    authority = tmp_path / "authority.pem"
    authority.write_text(AUTHORITY.read_text())
    secured = target("secured", "https://127.0.0.1:1", ca_file=authority)
    await bench.fleet.apply([secured], shared())
    authority.write_text("half of a certificate")
    changes = await bench.fleet.apply([secured, target("found", engines[0].url)])
    assert changes == FleetChanges(added=("found",), kept=("secured",))
    await bench.sessions_of("found", 1)
    with pytest.raises(ConfigError, match=r"authority\.pem"):  # a reload reports it
        await bench.fleet.apply([secured], shared())
    assert bench.fleet.names == ("secured", "found")


async def test_a_failed_commit_changes_nothing(bench, engines):
    await bench.fleet.apply([target("a", engines[0].url)])

    async def refuse() -> None:
        raise OSError("no descriptor is left")

    with pytest.raises(OSError, match="no descriptor"):
        await bench.fleet.apply([target("b", engines[1].url)], commit=refuse)
    assert bench.fleet.names == ("a",)
    assert bench.loops() == {"scrape:a", "probe:a"}


async def test_an_engine_that_hangs_delays_no_other(bench, engines):
    engines[0].inject(faults.Hang())
    await bench.fleet.apply(
        [target(name, engine.url) for name, engine in zip("abc", engines, strict=True)]
    )
    await bench.sessions_of("b", 4)
    await bench.sessions_of("c", 4)
    assert bench.value("vllm_probe_sessions_total", target="a") == 0
    assert bench.value("vllm_probe_session_failures_total", target="b") == 0
    changes = await bench.fleet.apply([target("b", engines[1].url), target("c", engines[2].url)])
    assert changes.retired == ("a",), "in the middle of its stream"
    assert bench.loops() == {f"{kind}:{name}" for kind in ("scrape", "probe") for name in "bc"}


async def test_a_loop_that_does_not_stop_is_logged_and_delays_no_other(bench, engines, monkeypatch):
    monkeypatch.setattr("exporter.daemon.running.STOP_TIMEOUT_SECONDS", 0.2)
    release = asyncio.Event()
    await bench.fleet.apply([target("a", engines[0].url)])
    running = bench.fleet._running["a"]

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    running._tasks.append(bench._spawn(replace(RecordedLoop().heartbeat, name="probe:a"), stubborn))
    await asyncio.sleep(0)
    with capture_logs() as logs:
        changes = await bench.fleet.apply([target("b", engines[1].url)])
    assert changes == FleetChanges(added=("b",), retired=("a",))
    assert [each["loops"] for each in logs if each["event"] == "target.loops_overdue"] == [
        ["probe:a"]
    ]
    await bench.sessions_of("b", 1)
    release.set()


async def test_a_change_does_not_refill_a_spent_budget(bench, engines):
    url = engines[0].url
    poor = shared_settings_of(
        ProbeSettings(
            interval_seconds=1.0,
            tokens_per_hour=1000,
            retention_gaps_seconds=(),
            isolation_interval_seconds=0,
        ),
        ScrapeSettings(interval_seconds=0.2, timeout_seconds=0.2),
    )
    await bench.fleet.apply([target("a", url)], poor)
    await bench.sessions_of("a", 1)
    await bench.fleet.apply([target("a", url, watts=300.0)])
    await bench.until(
        "the budget holds it back",
        lambda: bench.value("vllm_probe_paused", target="a", reason="budget") == 1,
    )
    assert bench.value("vllm_probe_sessions_total", target="a") == 1


async def test_sessions_that_wait_for_a_limit_are_spread_when_the_settings_change(bench, engines):
    wanted = [target(f"t{place}", engines[0].url) for place in range(4)]
    poor = shared(tokens_per_hour=1, interval_seconds=2.0)
    await bench.fleet.apply(wanted, poor)
    running = bench.fleet._running.values
    await bench.until(
        "all are overdue",
        lambda: all(each.session_due_at < time.monotonic() for each in running()),
    )
    await bench.fleet.apply(wanted, shared(tokens_per_hour=1, interval_seconds=2.0, max_tokens=3))
    due = sorted(each.session_due_at for each in running())
    assert all(later - earlier > 0.3 for earlier, later in pairwise(due)), due
