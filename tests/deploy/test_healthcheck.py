"""The image's health check against an exporter with each kind of web configuration."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager
from importlib import util
from pathlib import Path

import pytest
from aiohttp import web
from web_files import CERTIFICATES, TLS, USERS, write

from exporter.web.access.configuration import read_web_config
from exporter.web.server import HttpServer

SCRIPT = Path(__file__).parents[2] / "deploy" / "healthcheck.py"
ASKS_CLIENTS = f"""{TLS}  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: {CERTIFICATES}/ca.pem
"""


@pytest.fixture(scope="module")
def check():
    spec = util.spec_from_file_location("healthcheck", SCRIPT)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def served(folder, text, status=200):
    app = web.Application()

    async def healthy(_request):
        return web.Response(status=status)

    app.router.add_get("/-/healthy", healthy)
    config = None if text is None else read_web_config(write(folder, text))
    server = HttpServer(app, web_config=config)
    await server.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.port}/-/healthy"
    finally:
        await server.stop()


@pytest.mark.parametrize(
    "text",
    [None, USERS, TLS, TLS + USERS, ASKS_CLIENTS, f"{ASKS_CLIENTS}  max_version: TLS12\n"],
    ids=["plain", "password", "TLS", "TLS and password", "client certificate", "the same, TLS 1.2"],
)
async def test_a_server_that_answers_is_healthy_also_if_it_asks_for_a_password(
    check, tmp_path, text
):
    async with served(tmp_path, text) as where:
        assert await asyncio.to_thread(check.answers, where)


@pytest.mark.parametrize("text", [None, TLS], ids=["plain", "TLS"])
async def test_a_server_that_fails_is_unhealthy(check, tmp_path, text):
    async with served(tmp_path, text, status=500) as where:
        assert not await asyncio.to_thread(check.answers, where)


async def test_no_server_is_unhealthy(check):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        check.answers(f"127.0.0.1:{port}/-/healthy")


async def test_a_server_that_cuts_every_connection_is_unhealthy(check):
    async def cut(_reader, writer):
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises((OSError, ssl.SSLError)):
            await asyncio.to_thread(check.answers, f"127.0.0.1:{port}/-/healthy")


@pytest.mark.parametrize(
    ("command", "listen", "where"),
    [
        (["python", "-m", "exporter", "run"], None, "127.0.0.1:9477/-/healthy"),
        (["x", "run"], "0.0.0.0:9000", "127.0.0.1:9000/-/healthy"),
        (["x", "simulate"], None, "127.0.0.1:8000/health"),
        (["x", "simulate", "--port", "8001"], None, "127.0.0.1:8001/health"),
    ],
)
def test_the_health_check_asks_the_page_of_the_program(check, monkeypatch, command, listen, where):
    monkeypatch.delenv("VLLM_EXPORTER_LISTEN", raising=False)
    if listen is not None:
        monkeypatch.setenv("VLLM_EXPORTER_LISTEN", listen)
    assert check.page(command) == where
