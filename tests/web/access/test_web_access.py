"""Certificates and users that are replaced while the server runs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import os
import ssl

import pytest
from aiohttp import ClientSession, ServerDisconnectedError, TCPConnector
from fake_clock import FakeClock
from structlog.testing import capture_logs
from web_files import CERTIFICATES, HASH, PASSWORD, TLS, USERS, install, write

from exporter.loops import LoopHeartbeat, endless
from exporter.web.access.configuration import read_web_config
from exporter.web.access.web_access import WebAccess
from exporter.web.server import HttpServer

ALICE = {"Authorization": "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()}


class Looks:
    """A sink: whether the files were in force at each look, and the number of failed looks."""

    def __init__(self):
        self.in_force: list[bool] = []
        self.failures = 0

    def web_config_checked(self, *, in_force):
        self.in_force.append(in_force)

    def ran(self, loop, _time):
        assert loop == "web_config"

    def failed(self, loop):
        assert loop == "web_config"
        self.failures += 1


class Served:
    """A server with a web configuration, and the object that reads its files again."""

    def __init__(self, app, folder, text):
        self.folder = folder
        self.sink = Looks()
        config = read_web_config(write(folder, text))
        self.server = HttpServer(app, web_config=config)
        self.clock = FakeClock()
        self.access = WebAccess(
            config,
            self.server.apply,
            heartbeat=LoopHeartbeat("web_config", self.sink, self.clock),
            spawn=lambda heartbeat, loop: asyncio.create_task(endless(heartbeat, loop)),
            sink=self.sink,
        )

    async def status(self, *, client=None, **headers):
        """The status of /-/healthy, and the name in the server's certificate."""
        context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
        if client is not None:
            context.load_cert_chain(CERTIFICATES / f"{client}.pem", CERTIFICATES / f"{client}.key")
        port = self.server.port
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
        try:
            status = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            certificate = writer.get_extra_info("peercert")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return int(status), dict(each[0] for each in certificate["subject"])["commonName"]


@pytest.fixture
async def serve(published, tmp_path):
    made = []

    async def start(text):
        served = Served(published.app, tmp_path, text)
        await served.server.start("localhost", 0)  # every address of the name, each with a socket
        made.append(served)
        return served

    yield start
    for each in made:
        for task in each.access.tasks():
            task.cancel()
        await each.server.stop()


async def test_the_next_client_gets_a_renewed_certificate(serve):
    served = await serve(TLS)
    port = served.server.port
    assert await served.status() == (200, "first")
    install(served.folder, "second")
    await served.access.look()
    assert await served.status() == (200, "second")
    assert served.server.port == port
    assert served.sink.in_force == [True]


async def test_an_open_connection_survives_a_new_certificate(serve):
    served = await serve(TLS)
    context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    url = f"https://localhost:{served.server.port}/-/healthy"
    async with ClientSession(connector=TCPConnector(ssl=context, limit=1)) as http:
        async with http.get(url) as answer:
            assert answer.status == 200
        install(served.folder, "second")
        await served.access.look()
        async with http.get(url) as answer:
            assert answer.status == 200


async def test_half_a_renewal_changes_nothing_until_it_is_complete(serve):
    served = await serve(TLS)
    (served.folder / "server.pem").write_bytes((CERTIFICATES / "second.pem").read_bytes())
    with capture_logs() as logged:
        await served.access.look()
        await served.access.look()
    assert [line["event"] for line in logged] == ["web_config.refused"]  # logged once
    assert "must be the key of the certificate" in logged[0]["error"]
    assert await served.status() == (200, "first")
    (served.folder / "server.key").write_bytes((CERTIFICATES / "second.key").read_bytes())
    await served.access.look()
    assert await served.status() == (200, "second")
    assert served.sink.in_force == [False, False, True]


async def test_users_change_without_a_restart(serve):
    served = await serve(TLS + USERS)
    assert (await served.status(**ALICE))[0] == 200
    write(served.folder, TLS + USERS.replace("alice", "bobby"))
    await served.access.look()
    assert (await served.status(**ALICE))[0] == 401


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (TLS, "only a restart can remove all of basic_auth_users"),
        (TLS + "basic_auth_users: {}", "only a restart can remove all of basic_auth_users"),
        (USERS, "only a restart can turn TLS on or off"),
        ("tls_server_config: [", "is not YAML"),
    ],
)
async def test_a_file_that_no_longer_protects_is_refused(serve, text, words):
    served = await serve(TLS + USERS)
    write(served.folder, text)
    with capture_logs() as logged:
        await served.access.look()
    assert words in logged[0]["error"]
    assert HASH not in str(logged)
    assert (await served.status())[0] == 401
    assert served.sink.in_force == [False]


async def test_a_file_that_no_longer_requires_client_certificates_is_refused(serve):
    required = f"  client_auth_type: {{}}\n  client_ca_file: {CERTIFICATES}/ca.pem\n"
    served = await serve(TLS + required.format("RequireAndVerifyClientCert"))
    write(served.folder, TLS + required.format("VerifyClientCertIfGiven"))
    with capture_logs() as logged:
        await served.access.look()
    assert "only a restart can stop requiring client certificates" in logged[0]["error"]
    write(served.folder, TLS + USERS)  # a password instead protects too
    await served.access.look()
    assert served.sink.in_force == [False, True]


async def test_a_corrected_file_is_in_force_again(serve):
    served = await serve(TLS + USERS)
    write(served.folder, "nonsense: 1")
    await served.access.look()
    (served.folder / "web.yml").unlink()
    await served.access.look()
    write(served.folder, TLS + USERS)
    await served.access.look()
    assert served.sink.in_force == [False, False, True]


async def test_corrected_permissions_are_noticed(serve):
    served = await serve(TLS)
    (served.folder / "server.key").rename(served.folder / "away")
    await served.access.look()
    (served.folder / "away").rename(served.folder / "server.key")  # with its old times
    (served.folder / "server.key").chmod(0o600)
    await served.access.look()
    assert served.sink.in_force == [False, True]


async def test_a_passing_lack_of_descriptors_is_retried_and_logged_once(serve, monkeypatch):
    served = await serve(TLS + USERS)
    sockets = served.server._second_listener

    async def no_descriptors(_descriptor):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(served.server, "_second_listener", no_descriptors)
    write(served.folder, TLS + USERS.replace("alice", "bobby"), certificate="second")
    with capture_logs() as logged:
        await served.access.look()
        await served.access.look()
    assert [line["error"] for line in logged] == ["Too many open files"]
    assert await served.status(**ALICE) == (200, "first")  # the old configuration, all of it
    monkeypatch.setattr(served.server, "_second_listener", sockets)
    await served.access.look()
    assert await served.status(**ALICE) == (401, "second")
    assert served.sink.in_force == [False, False, True]


async def test_a_client_without_a_required_certificate_is_refused(serve):
    asked = (
        f"  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {CERTIFICATES}/ca.pem\n"
    )
    served = await serve(TLS + asked)
    assert await served.status(client="client") == (200, "first")
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await served.status()


async def test_plain_http_is_not_answered_on_a_tls_port(serve):
    served = await serve(TLS)
    with pytest.raises((ServerDisconnectedError, OSError)):
        async with (
            ClientSession() as http,
            http.get(f"http://localhost:{served.server.port}/-/healthy"),
        ):
            pass


async def test_headers_of_the_file_override_the_default_headers(serve):
    served = await serve(
        TLS
        + "http_server_config:\n  headers:\n    Content-Security-Policy: default-src 'self'\n"
        + "    Strict-Transport-Security: max-age=60\n"
    )
    context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    async with (
        ClientSession(connector=TCPConnector(ssl=context)) as http,
        http.get(f"https://localhost:{served.server.port}/metrics") as answer,
    ):
        assert answer.headers.getall("Content-Security-Policy") == ["default-src 'self'"]
        assert answer.headers["Strict-Transport-Security"] == "max-age=60"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_files_are_looked_at_every_five_seconds(serve):
    served = await serve(TLS)
    served.access.start()
    for looks in range(1, 4):
        await served.clock.until_asleep()
        assert len(served.sink.in_force) == looks
        await served.clock.advance(5)


async def test_a_look_that_fails_unexpectedly_is_counted_and_the_next_one_follows(
    serve, monkeypatch
):
    served = await serve(TLS)

    async def broken(_config):
        raise RuntimeError("ours")

    monkeypatch.setattr(served.access, "_apply", broken)
    install(served.folder, "second")
    with capture_logs() as logged:
        served.access.start()
        await served.clock.until_asleep()
    assert (served.sink.failures, logged[0]["event"]) == (1, "loop.failed")
    monkeypatch.setattr(served.access, "_apply", served.server.apply)
    await served.clock.advance(5)
    await served.clock.until_asleep()
    assert served.sink.in_force == [True]
    assert await served.status() == (200, "second")
