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

from exporter.web.access.configuration import read_web_config
from exporter.web.access.watch import WebConfigWatch
from exporter.web.server import HttpServer

ALICE = {"Authorization": "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()}


class Served:
    """A server with a web configuration, and the watch over its files."""

    def __init__(self, app, folder, text):
        self.folder = folder
        self.looks: list[bool] = []
        config = read_web_config(write(folder, text))
        self.server = HttpServer(app, web_config=config)
        self.failures = 0
        self.clock = FakeClock()
        self.watch = WebConfigWatch(
            config, self.clock, self.server.apply, self.looks.append, self.failed
        )

    def failed(self):
        self.failures += 1

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
        await each.server.stop()


async def test_a_renewed_certificate_is_shown_to_the_next_client(serve):
    served = await serve(TLS)
    port = served.server.port
    assert await served.status() == (200, "first")
    install(served.folder, "second")
    await served.watch.look()
    assert await served.status() == (200, "second")
    assert served.server.port == port
    assert served.looks == [True]


async def test_a_connection_that_stands_outlives_a_new_certificate(serve):
    served = await serve(TLS)
    context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    url = f"https://localhost:{served.server.port}/-/healthy"
    async with ClientSession(connector=TCPConnector(ssl=context, limit=1)) as http:
        async with http.get(url) as answer:
            assert answer.status == 200
        install(served.folder, "second")
        await served.watch.look()
        async with http.get(url) as answer:
            assert answer.status == 200


async def test_half_a_renewal_changes_nothing_until_it_is_whole(serve):
    served = await serve(TLS)
    (served.folder / "server.pem").write_bytes((CERTIFICATES / "second.pem").read_bytes())
    with capture_logs() as logged:
        await served.watch.look()
        await served.watch.look()
    assert [line["event"] for line in logged] == ["web_config.refused"]  # told once
    assert "must be the key of the certificate" in logged[0]["error"]
    assert await served.status() == (200, "first")
    (served.folder / "server.key").write_bytes((CERTIFICATES / "second.key").read_bytes())
    await served.watch.look()
    assert await served.status() == (200, "second")
    assert served.looks == [False, False, True]


async def test_users_come_and_go_without_a_restart(serve):
    served = await serve(TLS + USERS)
    assert (await served.status(**ALICE))[0] == 200
    write(served.folder, TLS + USERS.replace("alice", "bobby"))
    await served.watch.look()
    assert (await served.status(**ALICE))[0] == 401


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (TLS, "basic_auth_users can be emptied by a restart only"),
        (TLS + "basic_auth_users: {}", "basic_auth_users can be emptied by a restart only"),
        (USERS, "TLS is turned on or off by a restart only"),
        ("tls_server_config: [", "is not YAML"),
    ],
)
async def test_a_file_that_no_longer_protects_is_not_followed(serve, text, words):
    served = await serve(TLS + USERS)
    write(served.folder, text)
    with capture_logs() as logged:
        await served.watch.look()
    assert words in logged[0]["error"]
    assert HASH not in str(logged)
    assert (await served.status())[0] == 401
    assert served.looks == [False]


async def test_a_mistake_that_is_taken_back_is_in_force_again(serve):
    served = await serve(TLS + USERS)
    write(served.folder, "nonsense: 1")
    await served.watch.look()
    (served.folder / "web.yml").unlink()
    await served.watch.look()
    write(served.folder, TLS + USERS)
    await served.watch.look()
    assert served.looks == [False, False, True]


async def test_rights_that_were_mended_are_seen(serve):
    served = await serve(TLS)
    (served.folder / "server.key").rename(served.folder / "away")
    await served.watch.look()
    (served.folder / "away").rename(served.folder / "server.key")  # with its old times
    (served.folder / "server.key").chmod(0o600)
    await served.watch.look()
    assert served.looks == [False, True]


async def test_a_lack_that_passes_is_tried_again_and_told_once(serve, monkeypatch):
    served = await serve(TLS + USERS)
    sockets = served.server._second_listener

    async def no_descriptors(_descriptor):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(served.server, "_second_listener", no_descriptors)
    write(served.folder, TLS + USERS.replace("alice", "bobby"), certificate="second")
    with capture_logs() as logged:
        await served.watch.look()
        await served.watch.look()
    assert [line["error"] for line in logged] == ["Too many open files"]
    assert await served.status(**ALICE) == (200, "first")  # all of it is the old one
    monkeypatch.setattr(served.server, "_second_listener", sockets)
    await served.watch.look()
    assert await served.status(**ALICE) == (401, "second")
    assert served.looks == [False, False, True]


async def test_only_clients_with_a_certificate_get_in_where_they_are_asked_for_one(serve):
    asked = (
        f"  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {CERTIFICATES}/ca.pem\n"
    )
    served = await serve(TLS + asked)
    assert await served.status(client="client") == (200, "first")
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await served.status()


async def test_plain_http_is_not_answered_where_tls_is_spoken(serve):
    served = await serve(TLS)
    with pytest.raises((ServerDisconnectedError, OSError)):
        async with (
            ClientSession() as http,
            http.get(f"http://localhost:{served.server.port}/-/healthy"),
        ):
            pass


async def test_headers_of_the_file_win_over_our_own(serve):
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


async def test_the_watch_looks_again_and_again(serve):
    served = await serve(TLS)
    loop = asyncio.create_task(served.watch.run())
    for looks in range(1, 4):
        await served.clock.until_asleep()
        assert len(served.looks) == looks
        await served.clock.advance(5)
    loop.cancel()


async def test_the_watch_outlives_a_mistake_of_ours(serve, monkeypatch):
    served = await serve(TLS)

    async def broken(_config):
        raise RuntimeError("ours")

    monkeypatch.setattr(served.watch, "_apply", broken)
    install(served.folder, "second")
    with capture_logs() as logged:
        loop = asyncio.create_task(served.watch.run())
        await served.clock.until_asleep()
    assert (served.failures, logged[0]["event"]) == (1, "web_config.crashed")
    monkeypatch.setattr(served.watch, "_apply", served.server.apply)
    await served.clock.advance(5)
    await served.clock.until_asleep()
    assert served.looks == [True]
    assert await served.status() == (200, "second")
    loop.cancel()
