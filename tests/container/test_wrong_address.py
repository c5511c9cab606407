"""A container that is up at another address than the target's is not restarted for that."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web
from lifecycle_daemon import SETTINGS
from supervisor_scene import Scene, scene_of

from exporter.container.decide.observation import Health
from exporter.container.decide.records import Cause, LifecycleState
from exporter.container.observer import check_health
from exporter.engine.client.engine_client import EngineClient
from exporter.errors import EngineUnavailableError
from exporter.model.failure import FailureReason

REFUSED = "http://127.0.0.1:18400/health: nothing listens at 127.0.0.1:18400"


def at_a_wrong_address(at: Scene, words: str = REFUSED) -> None:
    async def healthy(_: float) -> bool:
        raise EngineUnavailableError(FailureReason.CONNECTION_REFUSED, words)

    at.healthy = healthy


def at_the_right_one(at: Scene) -> None:
    del at.healthy


def calls(at: Scene, call: str) -> int:
    return [done for done, _ in at.world.did].count(call)


async def test_a_container_that_is_up_and_not_reached_is_reported_and_not_restarted():
    async with scene_of() as at:
        at_a_wrong_address(at)
        await at.wait(1800)
        assert calls(at, "stop") == 0
        assert calls(at, "start") == 1
        assert at.view.state is LifecycleState.UNHEALTHY
        assert at.view.diagnosis.cause is Cause.ADDRESS
        assert at.view.diagnosis.evidence == REFUSED
        assert "url" in at.view.diagnosis.advice
        assert "nvidia-smi" not in at.view.diagnosis.advice
        assert at.view.restarts == at.view.start_failures == {}
        assert at.events("warning") == ["container.unhealthy"]
        at_the_right_one(at)
        await at.wait(10)
        assert at.view.state is LifecycleState.READY
        assert at.view.diagnosis is None


async def test_it_may_be_up_by_the_word_of_its_images_health_check():
    async with scene_of(setting=lambda world: setattr(world, "chatty", False)) as at:
        at_a_wrong_address(at)
        await at.wait(40)
        assert at.view.state is LifecycleState.STARTING
        at.world.only().health = "healthy"
        await at.wait(600)
        assert at.view.diagnosis.cause is Cause.ADDRESS
        assert calls(at, "stop") == 0


async def test_a_quiet_log_of_a_server_that_is_up_is_no_start_that_hangs():
    """Without requests vLLM logs nothing, and at a wrong address it gets none."""
    async with scene_of(health_failures=10**6) as at:
        at_a_wrong_address(at)
        await at.wait(4 * SETTINGS.start_deadline_seconds)
        assert calls(at, "stop") == 0
        assert at.view.state is LifecycleState.STARTING


async def test_a_failing_start_still_ends_at_its_deadline():
    async with scene_of(setting=lambda world: setattr(world, "load_seconds", None)) as at:
        at_a_wrong_address(at)
        await at.wait(SETTINGS.quiet_deadline_seconds + 20)
        assert at.view.start_failures == {Cause.LOADING_HANGS: 1}


async def test_a_container_that_was_reached_once_is_unhealthy_when_nothing_listens():
    async with scene_of() as at:
        await at.wait(40)
        assert at.view.state is LifecycleState.READY
        at_a_wrong_address(at)
        await at.wait(30)
        assert calls(at, "stop") == 1
        assert at.view.restarts.keys() | at.view.start_failures.keys() <= {Cause.HEALTH_FAILED}


async def test_a_server_that_reports_an_error_before_it_was_ready_is_unhealthy():
    async with scene_of() as at:
        at.world.load_seconds = 5.0
        await at.wait(2)
        at.world.only().unhealthy = True
        await at.wait(60)
        assert at.view.start_failures == {Cause.HEALTH_FAILED: 1}


async def test_the_advice_names_the_addresses_that_docker_knows_of():
    async with scene_of() as at:
        snapshot = at.world.snapshot

        def with_ports(container):
            ports, networks = {8000: ("127.0.0.1", 8000)}, {"bridge": "172.17.0.2"}
            return replace(snapshot(container), published_ports=ports, networks=networks)

        at.world.snapshot = with_ports
        at_a_wrong_address(at)
        await at.wait(60)
        assert "port 8000 is published at 127.0.0.1:8000" in at.view.diagnosis.advice
        assert "in the network bridge it is 172.17.0.2" in at.view.diagnosis.advice


# What an answer of /health says


@asynccontextmanager
async def engine_at(url: str):
    async with EngineClient(url) as client:
        yield client


@asynccontextmanager
async def server(handler):
    """A real TCP server on loopback."""
    listener = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await listener.wait_closed()


@asynccontextmanager
async def answering(status: int, words: str = ""):
    async def health(_: web.Request) -> web.Response:
        return web.json_response({"error": words}, status=status)

    app = web.Application()
    app.add_routes([web.get("/health", health)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "health"),
    [
        (200, Health.OK),
        (503, Health.FAILED),
        (500, Health.FAILED),
        (404, Health.UNREACHABLE),
        (401, Health.UNREACHABLE),
    ],
)
async def test_only_vllms_own_word_is_taken_for_illness(status, health):
    async with answering(status) as port, engine_at(f"http://127.0.0.1:{port}") as engine:
        assert (await check_health(engine, 5.0)).health is health


async def test_a_server_that_is_being_scaled_says_so():
    words = "The model is currently scaling. Please try again later."
    async with answering(503, words) as port, engine_at(f"http://127.0.0.1:{port}") as engine:
        assert (await check_health(engine, 5.0)).suspended


async def test_a_port_on_which_nothing_listens_is_not_reached():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with engine_at(f"http://127.0.0.1:{port}") as engine:
        answer = await check_health(engine, 5.0)
        assert answer.health is Health.UNREACHABLE
        assert f"nothing listens at 127.0.0.1:{port}" in answer.detail


async def test_a_name_that_is_not_known_is_not_reached():
    async with engine_at("http://no-such-host.invalid:8000") as engine:
        assert (await check_health(engine, 5.0)).health is Health.UNREACHABLE


async def test_a_scheme_that_the_server_does_not_speak_does_not_reach_it():
    async with answering(200) as port, engine_at(f"https://127.0.0.1:{port}") as engine:
        assert (await check_health(engine, 5.0)).health is Health.UNREACHABLE


async def test_a_port_that_leads_to_nothing_behind_it_is_not_reached():
    """Docker's own proxy takes the connection, finds no listener in the container, and closes."""

    async def closes(_reader, writer):
        writer.close()

    async with server(closes) as port, engine_at(f"http://127.0.0.1:{port}") as engine:
        assert (await check_health(engine, 5.0)).health is Health.UNREACHABLE


async def test_silence_on_an_open_port_can_be_a_broken_engine():
    done = asyncio.Event()

    async def silent(_reader, writer):
        await done.wait()
        writer.close()

    async with server(silent) as port, engine_at(f"http://127.0.0.1:{port}") as engine:
        assert (await check_health(engine, 3.0)).health is Health.FAILED
        done.set()


async def test_a_host_that_does_not_take_connections_is_not_reached():
    """A full queue of connections looks like a host that drops them."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        filling = [socket.socket() for _ in range(3)]
        for each in filling:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        async with engine_at(f"http://127.0.0.1:{port}") as engine:
            assert (await check_health(engine, 1.0)).health is Health.UNREACHABLE
        for each in filling:
            each.close()


@pytest.mark.parametrize(
    ("answers", "rest"),
    [
        ({"/is_sleeping": {"is_sleeping": True}}, "asleep"),
        ({"/is_sleeping": {"is_sleeping": True}, "/is_paused": {"is_paused": True}}, "paused"),
        ({"/is_sleeping": {"is_sleeping": False}, "/is_paused": {"is_paused": True}}, "paused"),
        ({"/is_sleeping": {"error": "The model is currently scaling."}}, "scaling"),
        ({"/is_paused": {"is_paused": False}}, None),
        ({"/is_paused": {"is_paused": "yes"}}, None),
        ({}, None),
    ],
)
async def test_an_engine_is_asked_whether_it_sleeps_or_is_paused(answers, rest):
    app = web.Application()
    for path, body in answers.items():

        async def answer(_: web.Request, body=body) -> web.Response:
            return web.json_response(body, status=503 if "error" in body else 200)

        app.add_routes([web.get(path, answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with engine_at(f"http://127.0.0.1:{runner.addresses[0][1]}") as engine:
            assert await engine.rest() == rest
    finally:
        await runner.cleanup()
