"""Docker itself failing: what the door makes of a daemon that hangs, trickles, cuts or is gone."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
from contextlib import aclosing

import pytest
from docker_steps import kill
from unsteady_docker import Mood

from exporter.container.decide.records import DockerError, DockerProblem
from exporter.container.docker.engine import DockerEngine, DockerLimits

pytestmark = pytest.mark.docker

# Short for a daemon that hangs, and far longer than an answer takes on a busy machine.
SHORT = DockerLimits(query=1.5, change=1.5, pull=1.5)
PATIENCE = 30.0  # seconds; only a broken test waits that long
TICKING = "import time\nwhile True:\n    print('tick')\n    time.sleep(0.05)"


@pytest.fixture
async def door_at():
    doors = []

    def make(host, limits=SHORT):
        doors.append(DockerEngine(host, limits))
        return doors[-1]

    yield make
    for door in doors:
        await door.close()


def docker_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("docker-")]


async def eventually(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.01)


async def test_a_socket_that_is_not_there_is_unreachable(door_at, socket_folder):
    with pytest.raises(DockerError) as caught:
        await door_at(f"unix://{socket_folder}/none.sock").inspect("any")
    assert caught.value.problem is DockerProblem.UNREACHABLE
    assert "No such file or directory" in caught.value.detail
    assert caught.value.__cause__ is not None


async def test_a_socket_without_a_listener_is_unreachable(door_at, socket_folder):
    path = socket_folder / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(DockerError) as caught:
        await door_at(f"unix://{path}").inspect("any")
    assert caught.value.problem is DockerProblem.UNREACHABLE


def test_a_socket_that_one_may_not_open_is_permission_denied(socket_folder):
    # Its own process: root may open everything, so it becomes another user first.
    socket_folder.chmod(0o755)
    path = socket_folder / "docker.sock"
    script = textwrap.dedent("""
        import asyncio, os, sys
        from exporter.container.docker.engine import DockerEngine
        from exporter.container.decide.records import DockerError
        if os.geteuid() == 0:
            os.setuid(65534)
        async def main():
            door = DockerEngine(f"unix://{sys.argv[1]}")
            try:
                await door.inspect("any")
            except DockerError as exc:
                print(exc.problem, exc.detail)
            finally:
                await door.close()
        asyncio.run(main())
    """)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0o600 if os.geteuid() == 0 else 0)
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
        )
    assert done.stdout.startswith("permission_denied inspect any: Permission denied"), done


def test_a_host_of_another_kind_is_refused_at_once():
    async def make():
        DockerEngine("ssh://somewhere")

    with pytest.raises(DockerError, match="neither unix") as caught:
        asyncio.run(make())
    assert caught.value.problem is DockerProblem.BAD_REQUEST


async def test_a_docker_daemon_that_hangs_is_a_timeout_and_later_calls_work(door_at, unsteady):
    door = door_at(unsteady.host)
    assert await door.inspect("no-such-container") is None
    unsteady.mood = Mood.HANGING
    for _ in range(3):
        with pytest.raises(DockerError) as caught:
            await door.inspect("no-such-container")
        assert caught.value.problem is DockerProblem.TIMEOUT
    assert docker_threads() == ["docker-commands_0"]
    unsteady.mood = Mood.STEADY
    assert await door.inspect("no-such-container") is None


async def test_an_answer_that_trickles_is_held_to_the_limit_on_the_whole_call(door_at, unsteady):
    door = door_at(unsteady.host)
    unsteady.mood = Mood.TRICKLING
    with pytest.raises(DockerError, match="no complete answer after 3 s") as caught:
        await door.inspect("no-such-container")
    assert caught.value.problem is DockerProblem.TIMEOUT
    unsteady.mood = Mood.STEADY
    assert await door.inspect("no-such-container") is None
    assert docker_threads() == ["docker-commands_0"]


async def test_calls_that_wait_behind_a_hanging_one_have_their_own_time(door_at, unsteady):
    door = door_at(unsteady.host)
    unsteady.mood = Mood.HANGING
    first = asyncio.create_task(door.inspect("no-such-container"))
    second = asyncio.create_task(door.inspect("no-such-container"))
    await asyncio.wait({first})
    assert isinstance(first.exception(), DockerError)
    unsteady.mood = Mood.STEADY
    # The second one was sent while Docker hung, or after: either way it ends by itself.
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait({second})
    assert second.exception() is None or isinstance(second.exception(), DockerError)
    assert await door.inspect("no-such-container") is None


async def test_cancelling_a_call_frees_its_thread_at_once(door_at, unsteady):
    door = door_at(unsteady.host, DockerLimits(query=600, change=600, pull=600))
    unsteady.mood = Mood.HANGING
    call = asyncio.create_task(door.inspect("no-such-container"))
    await eventually(lambda: unsteady.requests)
    call.cancel()
    await asyncio.wait({call})
    unsteady.mood = Mood.STEADY
    async with asyncio.timeout(PATIENCE):  # far below the 600 s that the thread would sit there
        assert await door.inspect("no-such-container") is None


async def test_a_pull_that_is_cancelled_leaves_no_thread(door_at, unsteady):
    door = door_at(unsteady.host, DockerLimits(query=600, change=600, pull=600))
    unsteady.mood = Mood.HANGING
    pull = asyncio.create_task(door.pull("registry.invalid/none:1", print))
    await eventually(lambda: unsteady.requests)
    pull.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait({pull})
    assert not any("pull" in name for name in docker_threads())


async def test_a_silent_pull_is_a_timeout(door_at, unsteady):
    unsteady.mood = Mood.HANGING
    with pytest.raises(DockerError) as caught:
        await door_at(unsteady.host).pull("registry.invalid/none:1", print)
    assert caught.value.problem is DockerProblem.TIMEOUT


async def test_an_event_stream_that_does_not_open_is_a_timeout(door_at, unsteady):
    unsteady.mood = Mood.HANGING
    with pytest.raises(DockerError) as caught:
        await anext(door_at(unsteady.host).events())
    assert caught.value.problem is DockerProblem.TIMEOUT
    assert docker_threads() == []  # no call was made by the other worker


async def test_an_event_stream_may_be_silent_for_longer_than_the_timeout(
    door_at, unsteady, engine, launch_of
):
    launch = launch_of("pass")
    heard = asyncio.create_task(first_event_of(door_at(unsteady.host), launch.name))
    await asyncio.sleep(3 * SHORT.query)
    assert not heard.done()
    await engine.create(launch, {})
    async with asyncio.timeout(PATIENCE):
        assert (await heard).action == "create"


async def first_event_of(door, name):
    async with aclosing(door.events()) as events:
        async for event in events:
            if event.name == name:
                return event
    raise AssertionError("the stream ended by itself")


async def test_an_event_stream_that_is_cut_says_so(door_at, unsteady):
    door = door_at(unsteady.host)
    # The engine is shared: events of others' containers come all the time.
    stream = asyncio.create_task(first_event_of(door, "never-made"))
    await eventually(lambda: unsteady.requests >= 2)  # the version, then the events
    await unsteady.cut()  # while it is being opened or afterwards: the end is the same
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait({stream})
    assert stream.exception().problem is DockerProblem.UNREACHABLE
    assert docker_threads() == []


async def test_a_log_stream_that_is_cut_is_no_end(door_at, unsteady, engine, launch_of):
    container = await engine.create(launch_of(TICKING), {})
    await engine.start(container)
    lines = []
    with pytest.raises(DockerError) as caught:  # noqa: PT012 - the cut comes within the loop
        async for line in door_at(unsteady.host).logs(container, None):
            lines.append(line)
            if len(lines) == 5:
                await unsteady.cut()
    assert caught.value.problem is DockerProblem.UNREACHABLE
    assert {line.text for line in lines} == {"tick"}
    await kill(engine, container)


async def test_cancelling_a_stream_leaves_no_thread_and_no_connection(
    door_at, unsteady, engine, launch_of
):
    container = await engine.create(launch_of(TICKING), {})
    await engine.start(container)
    door = door_at(unsteady.host)
    seen = []

    async def read(stream, sink):
        async for each in stream:
            sink.append(each)

    tasks = [
        asyncio.create_task(read(door.events(), [])),
        asyncio.create_task(read(door.logs(container, None), seen)),
    ]
    await eventually(lambda: len(seen) > 3)
    for task in tasks:
        task.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait(tasks)
    assert [name for name in docker_threads() if "logs" in name or "events" in name] == []
    await eventually(lambda: unsteady.open_connections == 0)
    await kill(engine, container)


async def test_close_aborts_every_call(door_at, unsteady):
    door = door_at(unsteady.host, DockerLimits(query=600, change=600, pull=600))
    # The engine is shared: events of others' containers come all the time.
    stream = asyncio.create_task(first_event_of(door, "never-made"))
    await eventually(lambda: unsteady.requests >= 2)
    unsteady.mood = Mood.HANGING
    waiting = [
        stream,
        asyncio.create_task(door.inspect("any")),
        asyncio.create_task(door.stop("any", 600)),
        asyncio.create_task(door.pull("registry.invalid/none:1", print)),
    ]
    await eventually(lambda: unsteady.requests >= 5)
    async with asyncio.timeout(PATIENCE):
        await door.close()
        await asyncio.wait(waiting)
    assert all(isinstance(task.exception(), DockerError) for task in waiting)
    assert docker_threads() == []
    with pytest.raises(DockerError, match="closed"):
        await door.inspect("any")
    with pytest.raises(DockerError, match="closed"):
        await door.start("any")


async def test_a_daemon_that_went_away_and_came_back_is_found_again(door_at, unsteady):
    door = door_at(unsteady.host)
    assert await door.inspect("no-such-container") is None
    await unsteady.stop()
    with pytest.raises(DockerError) as caught:
        await door.inspect("no-such-container")
    assert caught.value.problem is DockerProblem.UNREACHABLE
    await unsteady.start()
    assert await door.inspect("no-such-container") is None
