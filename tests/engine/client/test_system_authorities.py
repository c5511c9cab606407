"""An https engine is trusted if the system's certificate authorities vouch for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The server is one process with the client: it answers /health, over a certificate of its own.
SCRIPT = """
import asyncio, os, ssl, sys
from exporter.cli import main
main.build_parser(["run"])
from aiohttp import web
from exporter.engine.client.engine_client import EngineClient
from exporter.errors import EngineUnavailableError

async def check(certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async def healthy(_request):
        return web.Response()
    app = web.Application()
    app.router.add_get("/health", healthy)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    async with EngineClient(f"https://localhost:{runner.addresses[0][1]}") as client:
        try:
            print(await client.healthy())
        except EngineUnavailableError as error:
            print(error.reason)
    await runner.cleanup()

asyncio.run(check(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def own_certificate(tmp_path_factory):
    """A certificate of localhost that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj"),
            *("/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return certificate, key


def answered(own_certificate, environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *own_certificate],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_an_engine_with_a_certificate_known_to_the_system_is_trusted(own_certificate):
    assert answered(own_certificate, {"SSL_CERT_FILE": str(own_certificate[0])}) == "True"


def test_an_engine_with_an_unknown_certificate_is_refused(own_certificate):
    assert answered(own_certificate, {}) == "connect_failed"
