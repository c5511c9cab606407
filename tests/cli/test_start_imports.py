"""`run` loads what it needs to measure; the rest waits until somebody asks for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Serves until it has answered the path in argv, then names what is loaded.
SCRIPT = """
import asyncio, json, os, sys
from exporter.cli import main
options = main.build_parser(["run"]).parse_args(["run", "--listen", "127.0.0.1:0"])
from exporter import config, logs
from exporter.daemon.app import Daemon
from exporter.clock import SystemClock
logs.configure("json", "error")
settings = config.load_from(options, {"VLLM_HOST": "http://127.0.0.1:1"}).settings

async def ask(daemon, stop):
    place = ("127.0.0.1", daemon._server.port)
    reader, writer = await asyncio.open_connection(*place)
    writer.write(f"GET {sys.argv[1]} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n".encode())
    answer = await reader.read()
    writer.close()
    print(json.dumps({"status": answer.split()[1].decode(), "modules": sorted(sys.modules)}))
    stop.set()

async def serve():
    stop, asked = asyncio.Event(), []
    daemon = Daemon(settings, SystemClock())
    await daemon.run(stop, lambda: asked.append(asyncio.ensure_future(ask(daemon, stop))))
    await asked[0]

asyncio.run(serve())
"""
# For pages, charts, terminals, containers, simulations and other commands.
NOT_TO_MEASURE = {
    "docker",
    "exporter.daemon.container_supervision",
    "exporter.container.decide.launch",
    "exporter.container.supervisor",
    "exporter.discovery.dns",
    "exporter.discovery.docker_labels",
    "exporter.web.api_description",
    "exporter.web.api_shape",
    "exporter.web.page.views.charts",
    "exporter.web.page.page",
    "exporter.web.page.views.targets",
    "exporter.report.drawing",
    "exporter.report.screen",
    "exporter.simulator",
    "exporter.daemon.container_setup",
    "jinja2",
    "markdown",
    "matplotlib",
    "numpy",
    "requests",
    "rich",
    "urllib3",
    "yaml",
}


def loaded_after(path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["status"] == "200"
    return set(answer["modules"])


@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/api/v1/targets"])
def test_for_an_external_engine_nothing_of_containers_pages_or_charts_is_loaded(path):
    loaded = loaded_after(path)
    assert {
        "exporter.daemon.app",
        "exporter.engine.scraper",
        "exporter.probe.session.runner",
    } <= loaded
    assert loaded & NOT_TO_MEASURE == set()


def test_the_first_page_loads_what_it_is_made_of():
    assert {"jinja2", "exporter.web.page.page"} <= loaded_after("/")
