"""A real Prometheus reads the configurations of docs/fleet.md as the page says."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from publish_records import TURNS, session
from real_prometheus import prometheus

from exporter.web.server import HttpServer

DOCUMENT = (Path(__file__).parents[2] / "docs/fleet.md").read_text("utf-8")
SHOWN = dict(re.findall(r"<!-- prometheus: (\w+) -->\n```yaml\n(.*?)```", DOCUMENT, re.DOTALL))
PATIENCE = 80.0  # seconds, the limit of a test that takes about ten


def tool(*words) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.promtool
@pytest.mark.parametrize(("name", "what"), [("small", "config"), ("large", "config"), ("rule", "rules")])  # fmt: skip
def test_the_shown_configuration_passes_promtool(promtool, tmp_path, name, what):
    file = tmp_path / "shown.yml"
    file.write_text(SHOWN[name])
    done = tool(promtool, "check", what, str(file))
    assert done.returncode == 0, done


@pytest.fixture
async def config(published, tmp_path):
    """The document's configuration of a large fleet, with the address of a real server."""
    published.metrics.limit_whole_page(0)
    for name in ("one", "two"):
        published.session_finished(session(*TURNS, target=name))
        published.metrics.targets[name].loops.ran(f"scrape:{name}", 5.0)
    published.metrics.exporter.loops.ran("web_config", 5.0)
    server = HttpServer(published.app)
    await server.start("127.0.0.1", 0)
    fast = "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
    large = SHOWN["large"].replace("exporter.example:9477", f"127.0.0.1:{server.port}")
    file = tmp_path / "prometheus.yml"
    file.write_text(fast + large.replace("refresh_interval: 30s", "refresh_interval: 1s"))
    file.chmod(0o644)  # Prometheus runs as nobody
    yield file
    await server.stop()


@pytest.mark.promtool
async def test_promtool_finds_the_page_of_each_target(promtool, config):
    job = "vllm-cache-exporter-targets"
    found: list[dict[str, str]] = []
    for patience in (
        "3s",
        "12s",
        "40s",
    ):  # it always takes all of this time, and longer on a busy machine
        done = await asyncio.to_thread(
            *(tool, promtool, "check", "service-discovery", f"--timeout={patience}"),
            *(str(config), job),
        )
        assert done.returncode == 0, done
        found = [each["labels"] for each in json.loads(done.stdout) or []]
        if found:
            break
    address = re.search(r"127\.0\.0\.1:[0-9]+", config.read_text())[0]
    wanted = {"instance": address, "job": job}
    shown = [
        {name: value for name, value in labels.items() if not name.startswith("__")}
        for labels in found
    ]
    assert sorted(shown, key=lambda labels: labels["target"]) == [
        wanted | {"target": name} for name in ("one", "two")
    ]
    assert all(labels["__param_target"] == labels["target"] for labels in found)


def ask(url: str, query: str) -> list[dict[str, str]]:
    body = urllib.parse.urlencode({"query": query}).encode()
    with urllib.request.urlopen(f"{url}/api/v1/query", body, timeout=10) as answer:
        return [series["metric"] for series in json.load(answer)["data"]["result"]]


async def once(url: str, query: str, count: int, give_up: float) -> list[dict[str, str]]:
    """The labels of the query's series, once there are that many."""
    while True:
        found = await asyncio.to_thread(ask, url, query)
        if len(found) == count:
            return found
        assert time.monotonic() < give_up, (query, found)
        await asyncio.sleep(0.2)


@pytest.mark.docker
async def test_a_real_prometheus_reads_each_target_by_itself_with_the_right_labels(
    config, published
):
    give_up = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        url = await asyncio.to_thread(stack.enter_context, prometheus(config, give_up))
        targets = 'job="vllm-cache-exporter-targets"'
        pages = await once(url, f"up{{{targets}}} == 1", 2, give_up)
        assert {labels["target"] for labels in pages} == {"one", "two"}
        address = pages[0]["instance"]
        series = await once(url, "vllm_probe_up", 2, give_up)
        assert sorted(series, key=lambda labels: labels["target"]) == [
            {
                "__name__": "vllm_probe_up",
                "instance": address,
                "job": "vllm-cache-exporter-targets",
                "target": name,
            }
            for name in ("one", "two")
        ]
        loops = await once(url, "vllm_exporter_loop_last_run_timestamp_seconds", 3, give_up)
        assert {(labels["loop"], labels.get("target")) for labels in loops} == {
            ("scrape:one", "one"),
            ("scrape:two", "two"),
            ("web_config", None),
        }
        assert await asyncio.to_thread(ask, url, '{exported_target!=""}') == []
        assert await once(url, "vllm_exporter_targets == 2", 1, give_up)
        # The alert of the document does not fire, because the pages are read.
        alert = "vllm_exporter_whole_page == 0"
        assert await once(url, alert, 1, give_up)
        await once(url, f'{alert} unless on (instance) up{{target!=""}}', 0, give_up)

        published.metrics.remove("two")
        await once(url, f"up{{{targets}}}", 1, give_up)
        [left] = await once(url, "vllm_probe_up", 1, give_up)
        assert left["target"] == "one"
        await asyncio.to_thread(
            stack.close
        )  # in a thread, because the event loop serves its last scrape
