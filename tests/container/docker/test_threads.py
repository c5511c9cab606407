"""Threads for Docker: how many there are, and what becomes of the daemon when there can be none."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextlib import aclosing

import pytest
from fleet_bench import fleet_of, shared, simulator
from small_docker import small_docker

from exporter.config import ProbeSettings, ScrapeSettings, Target
from exporter.container.decide.records import DockerError, DockerProblem
from exporter.container.docker import engine
from exporter.container.docker.engine import DockerEngine, DockerLimits
from exporter.container.docker.worker import DockerWorker
from exporter.daemon.shared_settings import shared_settings_of

PATIENCE = 30.0
# Of each target only its container is looked at.
SELDOM = shared_settings_of(
    ProbeSettings(interval_seconds=3600.0, retention_gaps_seconds=()),
    ScrapeSettings(interval_seconds=60.0),
)


def threads_for_docker() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("docker-")]


class NoThreads:
    """While `on`, no thread for Docker can be started, as at a limit of tasks."""

    def __init__(self, monkeypatch) -> None:
        self.on = True
        start = threading.Thread.start

        def start_or_not(thread: threading.Thread) -> None:
            if self.on and thread.name.startswith("docker-"):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_not)


@pytest.fixture
def no_threads(monkeypatch) -> NoThreads:
    return NoThreads(monkeypatch)


@pytest.fixture
async def docker(socket_folder):
    """As much of Docker as watching takes, and where it is."""
    path = socket_folder / "docker.sock"
    async with small_docker(path) as asked:
        yield asked, f"unix://{path}"


@pytest.fixture
async def door_to():
    async with contextlib.AsyncExitStack() as stack:

        def make(host: str, limits: DockerLimits | None = None) -> DockerEngine:
            door = DockerEngine(host, limits)
            stack.push_async_callback(door.close)
            return door

        yield make


# No thread can be started


async def test_a_thread_that_cannot_start_is_a_docker_error_and_the_call_does_not_run_later(
    docker, no_threads
):
    _, host = docker
    worker, done = DockerWorker("commands", host, 5.0), []
    with pytest.raises(DockerError, match="can't start new thread") as caught:
        await worker.run("do the first", lambda _: done.append("first"), 5.0)
    assert caught.value.problem is DockerProblem.NO_THREADS
    no_threads.on = False
    await worker.run("do the second", lambda _: done.append("second"), 5.0)
    assert done == ["second"]
    await worker.close()


async def test_streams_whose_thread_cannot_start_say_so(docker, no_threads, door_to):
    _, host = docker
    door = door_to(host)
    for stream in (door.events(), door.logs("c1", None)):
        with pytest.raises(DockerError) as caught:
            await anext(stream)
        assert caught.value.problem is DockerProblem.NO_THREADS
    no_threads.on = False
    assert await door.inspect("c1") is not None


def attached(name: str, host: str, url: str = "http://127.0.0.1:1") -> Target:
    container = {"name": f"c-{name}", "docker_host": host, "health_interval_seconds": 2.0}
    return Target(name=name, mode="attached", url=url, container=container)


async def test_threads_that_cannot_start_leave_the_daemon_alive_and_the_target_says_why(
    docker, no_threads
):
    _, host = docker
    async with fleet_of() as bench, simulator() as engine:
        await bench.fleet.apply(
            [attached("a", host, engine.url), Target(name="b", url=engine.url)], shared()
        )
        await bench.until(
            "Docker's problem is reported",
            lambda: bench.value("vllm_container_docker_up", target="a") == 0,
        )
        assert bench.value("vllm_container_state", target="a", state="unknown") == 1
        await bench.sessions_of("a", 1)
        await bench.sessions_of("b", 2)
        assert "supervise:a" in bench.loops()
        assert not bench.value("vllm_exporter_loop_failures_total")
        no_threads.on = False
        await bench.until(
            "the container is seen",
            lambda: bench.value("vllm_container_state", target="a", state="ready") == 1,
        )


# How many there are


async def test_a_hundred_attached_containers_take_a_bounded_number_of_threads(docker):
    asked, host = docker
    before = len(threads_for_docker())
    async with fleet_of() as bench:
        targets = [attached(f"t{n}", host) for n in range(100)]
        await bench.fleet.apply(targets, SELDOM)
        most = 0

        def all_seen() -> bool:
            nonlocal most
            most = max(most, len(threads_for_docker()) - before)
            followed = asked.paths["logs"] >= engine._MAX_LOGS
            seen = [each for each in bench.metrics.targets.values() if each.container is not None]
            return followed and len(seen) == len(targets)

        await _until(all_seen)
        threads = threads_for_docker()[before:]
        kinds = {kind: sum(kind in name for name in threads) for kind in ("commands", "events")}
        assert kinds == {"commands": 1, "events": 1}
        assert most <= 2 + engine._MAX_LOGS
        assert asked.open_events == 1
    await _until(lambda: len(threads_for_docker()) == before)  # all end with the targets


async def test_the_log_that_was_followed_longest_makes_room_for_another(
    docker, door_to, monkeypatch
):
    monkeypatch.setattr(engine, "_MAX_LOGS", 2)
    asked, host = docker
    door = door_to(host)
    ends = [asyncio.create_task(_end_of(door.logs(f"c{n}", None))) for n in range(2)]
    await _until(lambda: asked.paths["logs"] == 2)
    ends.append(asyncio.create_task(_end_of(door.logs("c2", None))))
    async with asyncio.timeout(PATIENCE):
        error = await ends[0]
    assert error.problem is DockerProblem.NO_THREADS
    await _until(lambda: asked.paths["logs"] == 3)
    assert not ends[1].done()
    assert sum("logs" in name for name in threads_for_docker()) == 2


async def test_all_listeners_share_one_stream_and_all_get_its_error(socket_folder, door_to):
    path = socket_folder / "docker.sock"
    async with small_docker(path) as asked:
        door = door_to(f"unix://{path}")
        ends = [asyncio.create_task(_end_of(door.events())) for _ in range(5)]
        await _until(lambda: asked.open_events == 1)
        assert asked.paths["events"] == 1
    async with asyncio.timeout(PATIENCE):
        errors = await asyncio.gather(*ends)
    assert {error.problem for error in errors} == {DockerProblem.UNREACHABLE}
    async with small_docker(path) as asked:
        again = asyncio.create_task(_end_of(door.events()))
        await _until(lambda: asked.open_events == 1)
        again.cancel()
        await asyncio.wait({again})
        await _until(lambda: not any("events" in name for name in threads_for_docker()))


async def test_calls_that_wait_behind_one_that_hangs_are_not_tried_one_after_the_other(
    socket_folder, door_to
):
    path, requests = socket_folder / "docker.sock", []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.read(65536))
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(silent, path)
    try:
        door = door_to(f"unix://{path}", DockerLimits(query=0.2))
        found = await asyncio.gather(*(_end_of_call(door.inspect("c")) for _ in range(50)))
        assert {error.problem for error in found} == {DockerProblem.TIMEOUT}
        assert len(requests) <= 2, (
            "after the second one the daemon is known to hang, not a container"
        )
    finally:
        server.close()


async def test_a_container_that_hangs_costs_the_others_one_wait_and_no_answer(docker, door_to):
    _, host = docker
    door = door_to(host, DockerLimits(query=2.0))
    stuck = asyncio.create_task(_end_of_call(door.inspect("stuck")))
    others = [asyncio.create_task(door.inspect(f"c{n}")) for n in range(5)]
    assert (await stuck).problem is DockerProblem.TIMEOUT
    assert all(await asyncio.gather(*others))


async def test_a_slow_read_of_a_log_delays_no_query(docker, door_to):
    asked, host = docker
    door = door_to(host, DockerLimits(query=600.0))
    slow = asyncio.create_task(door.tail("slow", 10))
    await _until(lambda: asked.paths["logs"] == 1)
    async with asyncio.timeout(PATIENCE):
        assert await door.inspect("another") is not None
        assert await door.tail("another", 10) == ()
    assert not slow.done()
    slow.cancel()
    await asyncio.wait({slow})


async def _end_of(stream) -> DockerError:
    async with aclosing(stream):
        try:
            async for _ in stream:
                pass
        except DockerError as error:
            return error
    raise AssertionError("the stream ended by itself")


async def _end_of_call(call) -> DockerError:
    with pytest.raises(DockerError) as caught:
        await call
    return caught.value


async def _until(true) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.01)
