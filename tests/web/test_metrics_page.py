"""The whole page, the page of one target and that of the exporter itself."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from publish_records import TURNS, engine_view, session
from samples_page import ClientLibraryFamilies, publish
from structlog.testing import capture_logs

from exporter.metrics.families.tables import TARGET_FAMILIES
from exporter.metrics.state.target import TargetState
from exporter.web import metrics_page

ACCEPTED = (
    "text/plain",
    "application/openmetrics-text;version=1.0.0",
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
    "application/openmetrics-text;version=1.0.0;escaping=dots",
)


def fill(published, *names):
    for name in names:
        published.session_finished(session(*TURNS, target=name))
        publish(published.metrics, engine_view(target=name))
        published.metrics.targets[name].heartbeat_seconds = 100.0
        published.metrics.targets[name].loops.ran(f"scrape:{name}", 5.0)
    published.metrics.exporter.loops.ran("web_config", 5.0)


async def page(client, accept="text/plain", **params):
    headers = {"Accept": accept}
    answer = await client.get("/metrics", headers=headers, params=params)
    assert answer.status == 200
    return await answer.text()


def ours(text):
    """Without the values that change all the time."""
    return [line for line in text.splitlines() if "process_" not in line]


def samples(text):
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("accept", ACCEPTED)
async def test_the_whole_page_is_what_the_client_library_writes(client, published, accept):
    fill(published, "one", "two", "three")
    encode, _ = choose_encoder(accept)
    assert ours(await page(client, accept)) == ours(
        encode(ClientLibraryFamilies(published.metrics)).decode()
    )


@pytest.mark.parametrize("accept", ACCEPTED)
async def test_the_page_of_a_target_is_its_share_of_the_whole_page_and_nothing_else(
    client, published, accept
):
    fill(published, "one", "two")
    shared = [line for line in ours(await page(client, accept)) if not line.startswith("#")]
    of_two = [line for line in shared if 'target="two"' in line or 'loop="scrape:two"' in line]
    assert len(of_two) > len(TARGET_FAMILIES)
    alone = ours(await page(client, accept, target="two"))
    assert [line for line in alone if not line.startswith("#")] == of_two
    heads = [line for line in alone if line.startswith("# HELP")]
    assert len(TARGET_FAMILIES) / 2 < len(heads) == len(set(heads))


async def test_the_pages_of_all_targets_and_of_the_exporter_make_up_the_whole_page(
    client, published
):
    names = ("one", "two", "three")
    fill(published, *names)
    whole = samples(await page(client))
    parts = [samples(await page(client, target=name)) for name in names]
    published.metrics.limit_whole_page(2)
    parts.append(samples(await page(client)))
    assert set().union(*parts) == whole
    assert sum(map(len, parts)) == len(whole)  # and no series is on two of them


async def test_a_large_fleet_has_no_whole_page_and_says_so(client, published):
    published.metrics.limit_whole_page(2)
    fill(published, "one", "two")
    small = await page(client)
    assert "vllm_exporter_targets 2.0\n" in small
    assert "vllm_exporter_whole_page 1.0\n" in small
    fill(published, "three")
    large = await page(client)
    assert "vllm_exporter_targets 3.0\n" in large
    assert "vllm_exporter_whole_page 0.0\n" in large
    assert "vllm_probe" not in large
    assert 'loop="scrape:' not in large
    assert 'vllm_exporter_loop_failures_total{loop="web_config"} 0.0\n' in large
    assert "process_cpu_seconds_total" in large
    published.metrics.remove("one")
    assert "vllm_probe_up" in await page(client)


async def test_a_fleet_at_its_limit_keeps_its_whole_page_while_targets_are_exchanged(
    client, published
):
    metrics = published.metrics
    for name in ("a", "b"):
        metrics.add(TargetState(name))
    metrics.limit_whole_page(len(metrics.targets))
    with capture_logs() as logged:
        with metrics.swap(len(metrics.targets)):
            metrics.add(TargetState("c"))
            assert "vllm_exporter_whole_page 1.0\n" in await page(client)
            metrics.remove("a")
        assert "vllm_exporter_whole_page 1.0\n" in await page(client)
        assert logged == []
        with metrics.swap(len(metrics.targets) + 1):
            # At once: a page of a thousand targets must not appear because most are not added yet.
            assert "vllm_exporter_whole_page 0.0\n" in await page(client)
            metrics.add(TargetState("d"))
        assert "vllm_exporter_whole_page 0.0\n" in await page(client)
        with metrics.swap(1):
            metrics.remove("d")
            assert "vllm_exporter_whole_page 0.0\n" in await page(client)
        assert "vllm_exporter_whole_page 1.0\n" in await page(client)
    assert [line["event"] for line in logged] == [
        "metrics.page_of_each_target",
        "metrics.whole_page",
    ]


def test_only_a_page_that_became_too_large_is_worth_a_warning(published):
    with capture_logs() as logged:
        published.metrics.limit_whole_page(0)
        fill(published, "one")
        published.metrics.limit_whole_page(1)
        fill(published, "another")
    assert [(line["event"], line["log_level"]) for line in logged] == [
        ("metrics.page_of_each_target", "info"),  # as the setting asks
        ("metrics.whole_page", "info"),
        ("metrics.page_of_each_target", "warning"),
    ]


async def test_no_target_has_a_whole_page_where_none_may(client, published):
    published.metrics.limit_whole_page(0)
    assert "vllm_exporter_whole_page 1.0\n" in await page(client)
    fill(published, "one")
    assert "vllm_probe_up" not in await page(client)
    assert "vllm_probe_up" in await page(client, target="one")


async def test_series_of_the_page_of_a_target_can_be_selected_by_name(client, published):
    fill(published, "one", "two")
    text = await page(client, target="one", **{"name[]": "vllm_probe_ttft_seconds_sum"})
    assert {name for name, _ in samples(text)} == {"vllm_probe_ttft_seconds_sum"}
    assert text.count("# HELP") == 1
    text = await page(client, **{"name[]": "process_max_fds"})
    assert {name for name, _ in samples(text)} == {"process_max_fds"}


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("target=three", 404, "target: there is no target 'three'; there are: one, two\n"),
        ("target=", 400, "target: is empty; there are: one, two\n"),
        ("target=one&target=two", 400, "target: given more than once\n"),
        ("target=one&target=one", 400, "target: given more than once\n"),
    ],
)
async def test_an_unknown_target_is_refused_with_a_sentence(
    client, published, query, status, words
):
    fill(published, "one", "two")
    answer = await client.get(f"/metrics?{query}")
    assert (answer.status, await answer.text()) == (status, words)


async def test_the_sentence_names_only_a_few_targets_of_a_large_fleet(client, published):
    for number in range(1000):
        published.metrics.add(TargetState(f"t{number}"))
    answer = await (await client.get("/metrics?target=none")).text()
    assert answer.endswith(": t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13, t14, t15"
                           ", t16, t17, t18, t19 and 980 more\n")  # fmt: skip


async def test_the_sentence_without_targets(client):
    answer = await client.get("/metrics?target=one")
    assert (answer.status, await answer.text()) == (
        404,
        "target: there is no target 'one'; there are: none\n",
    )


async def turns_in(work) -> int:
    """How often other tasks run during `work`, which waits for nothing else."""
    count = 0

    async def run():
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(run())
    await work
    task.cancel()
    return count


async def test_other_tasks_run_between_two_targets(published):
    fill(published, *(f"t{number}" for number in range(50)))
    shown = metrics_page.MetricsPage(published.metrics)
    kind = metrics_page.PageKind(metrics_page.writer_for("")[0], None, gzip=False)
    assert await turns_in(shown.page("t1", kind)) < 5
    assert await turns_in(shown.page(None, kind)) > 50


async def test_requests_that_arrive_meanwhile_share_a_page(client, published, monkeypatch):
    fill(published, "one", "two", "three")
    made = []
    bodies = metrics_page._bodies

    def counted(state, kind):
        made.append(state.name)
        return bodies(state, kind)

    monkeypatch.setattr(metrics_page, "_bodies", counted)
    pages = await asyncio.gather(*(page(client) for _ in range(5)))
    assert made == ["one", "two", "three"]
    assert len({tuple(ours(each)) for each in pages}) == 1
    await page(client)
    assert made == ["one", "two", "three"] * 2  # a finished page is not kept


async def test_pages_in_two_formats_are_made_one_after_the_other(client, published, monkeypatch):
    fill(published, "one", "two", "three")
    made = []
    bodies = metrics_page._bodies

    def noted(state, kind):
        made.append(kind.writer)
        return bodies(state, kind)

    monkeypatch.setattr(metrics_page, "_bodies", noted)
    await asyncio.gather(*(page(client, accept) for accept in ACCEPTED[:2]))
    assert len(set(made)) == 2
    assert made == sorted(made, key=made.index)  # three of one page, then three of the other


async def test_a_target_that_is_removed_while_the_page_is_made_is_left_out_completely(
    client, published
):
    fill(published, "one", "two", "three")
    asked = asyncio.create_task(page(client))
    states, bodies = published.metrics.targets, metrics_page._bodies

    def removing(state, kind):
        published.metrics.remove("three")
        return bodies(state, kind)

    metrics_page._bodies = removing
    try:
        text = await asked
    finally:
        metrics_page._bodies = bodies
    assert list(states) == ["one", "two"]
    assert 'target="two"' in text
    assert "three" not in text


async def test_a_client_that_disconnects_does_not_cancel_the_page_of_others(published):
    fill(published, "one", "two")
    shown = metrics_page.MetricsPage(published.metrics)
    kind = metrics_page.PageKind(metrics_page.writer_for("")[0], None, gzip=False)
    first = asyncio.create_task(shown.page(None, kind))
    second = asyncio.create_task(shown.page(None, kind))
    await asyncio.sleep(0)
    first.cancel()
    assert b"vllm_probe_up" in await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_page_in_progress_is_cancelled_when_the_server_stops(published):
    fill(published, *(f"t{number}" for number in range(20)))
    shown = metrics_page.MetricsPage(published.metrics)
    kind = metrics_page.PageKind(metrics_page.writer_for("")[0], None, gzip=False)
    asked = asyncio.create_task(shown.page(None, kind))
    await asyncio.sleep(0)
    await shown.close()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert [task for task in asyncio.all_tasks() if task.get_name() == "whole page"] == []


async def test_the_families_of_the_process_are_on_the_page_of_the_exporter_alone(client, published):
    assert "\nprocess_open_fds " in await page(client)
    published.metrics.add(TargetState("one"))
    assert "process_" not in await page(client, target="one")
