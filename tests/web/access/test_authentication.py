"""Which requests are admitted, how long a check takes, and the limits for password guessing."""

from __future__ import annotations

import asyncio
import base64

import bcrypt
import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st
from web_files import DEARER_HASH, HASH, PASSWORD, USERS, write

from exporter.web.access.authentication import BasicAuth, Verdict, parse
from exporter.web.access.configuration import read_web_config
from exporter.web.server import HttpServer

PATHS = ["/metrics", "/", "/-/healthy", "/-/ready", "/api/v1/sessions", "/nothing", "/report.png"]


def header(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


ALICE = header("alice", PASSWORD)


@pytest.fixture
def looks(monkeypatch):
    """The hashes that bcrypt checked."""
    seen: list[bytes] = []
    real = bcrypt.checkpw

    def spy(password, hashed):
        seen.append(hashed)
        return real(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", spy)
    return seen


@pytest.fixture
def auth():
    auth = BasicAuth({b"alice": HASH.encode()})
    yield auth
    auth.close()


@pytest.fixture
async def url(published, tmp_path):
    server = HttpServer(published.app, web_config=read_web_config(write(tmp_path, USERS)))
    await server.start("127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.port}"
    await server.stop()


@pytest.mark.parametrize("path", PATHS)
async def test_no_page_is_shown_without_a_password(url, path):
    async with ClientSession() as http, http.get(url + path) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        body = await answer.text()
    assert "Unauthorized" in body
    assert "vllm_" not in body


@pytest.mark.parametrize(
    ("name", "password"), [("alice", "wrong"), ("bob", PASSWORD), ("", ""), ("alice", "")]
)
async def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(url, name, password):
    async with (
        ClientSession(headers={"Authorization": header(name, password)}) as http,
        http.get(url + "/metrics") as answer,
    ):
        assert (answer.status, await answer.text()) == (401, "401 Unauthorized\n")


async def test_the_right_password_opens_the_pages(url):
    async with ClientSession(headers={"Authorization": ALICE}) as http:
        for path in ("/metrics", "/", "/-/healthy", "/api/v1/sessions"):
            async with http.get(url + path) as answer:
                assert answer.status == 200


async def test_correct_credentials_are_not_checked_again(auth, looks):
    for _ in range(5):
        assert await auth.judge(ALICE) is Verdict.ADMITTED
    assert looks == [HASH.encode()]


async def test_wrong_credentials_are_checked_each_time(auth, looks):
    for _ in range(3):
        assert await auth.judge(header("alice", "wrong")) is Verdict.REFUSED
    assert len(looks) == 3


async def test_a_check_takes_the_same_time_for_every_name(looks):
    auth = BasicAuth({b"alice": HASH.encode(), b"carol": DEARER_HASH.encode()})
    effort = {}
    for name in ("alice", "carol", "nobody"):
        looks.clear()
        assert await auth.judge(header(name, "wrong")) is Verdict.REFUSED
        effort[name] = sum(2 ** int(each[4:6]) for each in looks)
    auth.close()
    assert set(effort.values()) == {2**6}


async def test_a_changed_password_is_required_at_once(auth):
    assert await auth.judge(ALICE) is Verdict.ADMITTED
    auth.replace({b"alice": bcrypt.hashpw(b"another", bcrypt.gensalt(4))})
    assert await auth.judge(ALICE) is Verdict.REFUSED
    assert await auth.judge(header("alice", "another")) is Verdict.ADMITTED
    auth.replace({b"bob": HASH.encode()})
    assert await auth.judge(header("alice", "another")) is Verdict.REFUSED


async def test_credentials_stay_remembered_when_other_users_change(auth, looks):
    assert await auth.judge(ALICE) is Verdict.ADMITTED
    auth.replace({b"alice": HASH.encode(), b"bob": HASH.encode()})
    assert await auth.judge(ALICE) is Verdict.ADMITTED
    assert len(looks) == 1


async def test_a_client_with_many_guesses_at_a_time_gets_503_and_delays_no_other(auth):
    assert await auth.judge(ALICE, "prometheus") is Verdict.ADMITTED
    guesses = [
        asyncio.ensure_future(auth.judge(header("alice", str(each)), "stranger"))
        for each in range(20)
    ]
    await asyncio.sleep(0)  # all of them are waiting
    assert await auth.judge(ALICE, "prometheus") is Verdict.ADMITTED
    newcomer = asyncio.ensure_future(auth.judge(header("alice", "x"), "another"))
    verdicts = [await each for each in guesses]
    assert verdicts.count(Verdict.BUSY) == 16
    assert verdicts.count(Verdict.REFUSED) == 4
    assert await newcomer is Verdict.REFUSED


async def test_a_busy_answer_is_a_503_with_retry_after(url, monkeypatch):
    async def busy(*_):
        return Verdict.BUSY

    monkeypatch.setattr(BasicAuth, "judge", busy)
    async with ClientSession() as http, http.get(url + "/metrics") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize("password", ["x" * 73, "a\0b", "é", "", "with:colon"])
async def test_any_password_is_either_right_or_wrong(auth, password):
    assert await auth.judge(header("alice", password)) is Verdict.REFUSED


async def test_a_long_password_counts_up_to_the_bytes_that_bcrypt_reads():
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4))  # as htpasswd makes it for any longer one
    auth = BasicAuth({b"alice": hashed})
    assert await auth.judge(header("alice", "x" * 80)) is Verdict.ADMITTED
    auth.close()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YQ",
        "Bearer YTpi",
        "Basic é",
        "Basic YWxpY2U=",
    ],
)
def test_other_authorization_headers_are_ignored(text):
    assert parse(text) is None


@given(st.binary().filter(lambda name: b":" not in name), st.binary())
def test_name_and_password_are_read_as_they_were_sent(name, password):
    encoded = base64.b64encode(name + b":" + password).decode()
    assert parse(f"Basic {encoded}") == parse(f"bASIC  {encoded} ") == (name, password)


@given(st.text())
def test_any_header_can_be_parsed(text):
    parse(text)
    parse(f"Basic {text}")
