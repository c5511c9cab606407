"""The allow-lists of deploy/socket-proxy suffice for the door, and let nothing else through."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
from contextlib import aclosing
from pathlib import Path

import pytest
from docker_steps import kill
from supervised_daemon import supervised

from exporter.container.decide.records import ContainerStatus, DockerError, DockerProblem
from exporter.container.docker.engine import DockerEngine, DockerLimits

pytestmark = pytest.mark.docker

LISTS = Path(__file__).parents[3] / "deploy" / "socket-proxy"
HAPROXY_IMAGE = os.environ.get("TEST_HAPROXY_IMAGE", "haproxy:3.2-alpine")
INSIDE = "/usr/local/etc/haproxy/haproxy.cfg"
PATIENCE = 60.0  # seconds; only a broken test waits that long
TICKING = "import time\nwhile True:\n    print('tick')\n    time.sleep(0.05)"


def as_tar(name: str, text: str) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(text.encode())
        member.mode = 0o444
        tar.addfile(member, io.BytesIO(text.encode()))
    return archive.getvalue()


@pytest.fixture(scope="module")
def proxy(docker_api, docker_host, run_label, have_image):
    """Start HAProxy in front of the engine's socket; give the host for a client."""
    if not docker_host.startswith("unix://"):
        pytest.skip(f"the socket proxy stands before a unix socket, not {docker_host}")
    have_image(HAPROXY_IMAGE)
    key, _, value = run_label.partition("=")
    started = []

    def start(allow_list: str, *, shorten: dict[str, str] | None = None, **environment: str) -> str:
        text = (LISTS / f"{allow_list}.cfg").read_text()
        for old, new in (shorten or {}).items():
            assert old in text
            text = text.replace(old, new)
        made = docker_api.create_container(
            HAPROXY_IMAGE,
            user="0:0",  # the owner of the socket
            environment=environment,
            labels={key: value},
            ports=[2375],
            host_config=docker_api.create_host_config(
                binds=[f"{docker_host.removeprefix('unix://')}:/var/run/docker.sock"],
                port_bindings={2375: ("127.0.0.1", None)},
            ),
        )
        started.append(made["Id"])
        folder, _, name = INSIDE.rpartition("/")
        docker_api.put_archive(made["Id"], "/", as_tar(f"{folder}/{name}".lstrip("/"), text))
        docker_api.start(made["Id"])
        ports = docker_api.inspect_container(made["Id"])["NetworkSettings"]["Ports"]
        return f"tcp://127.0.0.1:{ports['2375/tcp'][0]['HostPort']}"

    yield start
    for container in started:
        docker_api.remove_container(container, force=True)


@pytest.fixture
async def through():
    doors = []

    async def make(host: str) -> DockerEngine:
        door = DockerEngine(host, DockerLimits(query=30, change=60, pull=60))
        doors.append(door)
        async with asyncio.timeout(PATIENCE):
            while True:  # until HAProxy listens
                try:
                    await door.inspect("none")
                except DockerError as exc:
                    if exc.problem is not DockerProblem.UNREACHABLE:
                        raise
                    await asyncio.sleep(0.05)
                else:
                    return door

    yield make
    for door in doors:
        await door.close()


@pytest.fixture(scope="module")
def attached(proxy):
    return proxy("attached")


@pytest.fixture(scope="module")
def attached_with_restart(proxy):
    return proxy("attached", ALLOW_RESTART="1")


@pytest.fixture(scope="module")
def managed(proxy):
    return proxy("managed")


async def test_attached_suffices_to_watch(attached, through, engine, launch_of):
    launch = launch_of(TICKING, labels={"watch": "me"})
    container = await engine.create(launch, {})
    door = await through(attached)
    died = asyncio.create_task(death_of(door, launch.name))
    await engine.start(container)
    assert (await door.inspect(launch.name)).status is ContainerStatus.RUNNING
    assert container in {each.id for each in await door.find("watch=me")}
    async with aclosing(door.logs(container, None)) as lines:
        assert (await anext(lines)).text == "tick"
    assert [line.text for line in await door.tail(container, 1)] == ["tick"]
    while not died.done():  # the stream may not have been open at the first death
        await engine.start(container)
        await kill(engine, container)
        await asyncio.wait({died}, timeout=1)
    assert (await died).action == "die"


async def death_of(door, name):
    async with asyncio.timeout(PATIENCE), aclosing(door.events()) as events:
        async for event in events:
            if (event.name, event.action) == (name, "die"):
                return event
    raise AssertionError("the stream ended by itself")


@pytest.mark.parametrize("action", ["start", "unpause", "remove"])
async def test_attached_changes_nothing(attached, through, engine, launch_of, action):
    container = await engine.create(launch_of(TICKING), {})
    door = await through(attached)
    with pytest.raises(DockerError, match=r"does not allow .*attached\.cfg") as caught:
        await getattr(door, action)(container)
    assert caught.value.problem is DockerProblem.PERMISSION_DENIED
    assert (await engine.inspect(container)).status is ContainerStatus.CREATED


async def test_attached_creates_and_pulls_nothing(attached, through, engine, launch_of):
    door = await through(attached)
    launch = launch_of("pass")
    for call in (
        door.create(launch, {}),
        door.pull("registry.invalid/none:1", print),
        door.has_image(launch.image),
        door.stop("any", 1),
    ):
        with pytest.raises(DockerError) as caught:
            await call
        assert caught.value.problem is DockerProblem.PERMISSION_DENIED
    assert await engine.inspect(launch.name) is None


async def test_attached_restarts_where_it_is_allowed(
    attached_with_restart, through, engine, launch_of
):
    container = await engine.create(launch_of(TICKING), {})
    door = await through(attached_with_restart)
    await door.start(container)
    await door.stop(container, 0)
    await door.start(container)
    with pytest.raises(DockerError) as caught:
        await door.remove(container)
    assert caught.value.problem is DockerProblem.PERMISSION_DENIED


async def test_managed_suffices_for_a_whole_life(managed, through, launch_of, docker_api):
    door = await through(managed)
    launch = launch_of(
        "print(open('/run/secrets/hf_token').read())\n" + TICKING,
        secret_files={"HF_TOKEN": "/run/secrets/hf_token"},
    )
    assert await door.has_image(launch.image)
    container = await door.create(launch, {"HF_TOKEN": "hf_x"})
    await door.start(container)
    async with aclosing(door.logs(container, None)) as lines:
        assert (await anext(lines)).text == "hf_x"
    docker_api.pause(container)
    await door.unpause(container)
    await door.stop(container, 0)
    await door.remove(container)
    assert await door.find(f"name={launch.name}") == ()
    with pytest.raises(DockerError) as caught:
        await door.pull("registry.invalid/none:1", print)
    assert caught.value.problem is DockerProblem.REGISTRY_UNREACHABLE  # Docker's answer


FORBIDDEN_TO_ALL = [
    ("POST", "/containers/{id}/exec"),
    ("POST", "/exec/abc/start"),
    ("POST", "/containers/{id}/attach"),
    ("GET", "/containers/{id}/attach/ws"),
    ("GET", "/containers/{id}/export"),
    ("GET", "/containers/{id}/archive"),
    ("GET", "/containers/{id}/top"),
    ("POST", "/containers/{id}/update"),
    ("POST", "/containers/{id}/rename"),
    ("POST", "/containers/prune"),
    ("GET", "/volumes"),
    ("POST", "/volumes/create"),
    ("DELETE", "/volumes/x"),
    ("GET", "/networks"),
    ("POST", "/networks/create"),
    ("GET", "/images/json"),
    ("DELETE", "/images/x"),
    ("POST", "/build"),
    ("POST", "/commit"),
    ("GET", "/secrets"),
    ("POST", "/containers/{id}/kill"),
    ("POST", "/swarm/init"),
    ("GET", "/plugins"),
    ("GET", "/info"),
    ("GET", "/system/df"),
    ("POST", "/session"),
    ("POST", "/grpc"),
    # Ways around a pattern.
    ("GET", "/containers/x/../../volumes/json"),
    ("GET", "/containers/%2e%2e/volumes/json"),
    ("GET", "//volumes"),
    ("GET", "/containers/{id}/json/../export"),
    ("GET", "/containers/../json"),
    ("GET", "/volumes/v1.45/containers/x/json"),
    ("GET", "/containers/{id}/json/export"),
]
FORBIDDEN_TO_ATTACHED = [
    ("POST", "/containers/create"),
    ("POST", "/images/create"),
    ("GET", "/images/x/json"),
    ("PUT", "/containers/{id}/archive"),
    ("DELETE", "/containers/{id}"),
    ("POST", "/containers/{id}/restart"),
]


async def status_of(host: str, method: str, path: str) -> int:
    """The status of a request sent as it stands: no client in between tidies the path."""
    name, _, port = host.removeprefix("tcp://").partition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    try:
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(PATIENCE):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()


@pytest.mark.parametrize("versioned", ["/v1.45", ""])
@pytest.mark.parametrize("allow_list", ["attached", "attached_with_restart", "managed"])
async def test_nothing_else_gets_through(  # noqa: PLR0917 - fixtures
    request, through, engine, launch_of, allow_list, versioned
):
    host = request.getfixturevalue(allow_list)
    await through(host)
    container = await engine.create(launch_of("pass"), {})
    forbidden = FORBIDDEN_TO_ALL + (FORBIDDEN_TO_ATTACHED if allow_list != "managed" else [])
    let_through = [
        (method, path)
        for method, path in forbidden
        if await status_of(host, method, versioned + path.format(id=container)) != 403
    ]
    assert let_through == []


async def test_what_the_exporter_asks_is_not_refused_as_sent(attached, through, engine, launch_of):
    """The control for the test above: the same bare request, for a path on the list."""
    await through(attached)
    container = await engine.create(launch_of("pass"), {})
    assert await status_of(attached, "GET", f"/v1.41/containers/{container}/json") == 200
    assert await status_of(attached, "POST", f"/v1.41/containers/{container}/json") == 403


async def test_a_quiet_event_stream_outlives_the_proxys_timeouts(proxy, through, engine, launch_of):
    door = await through(
        proxy(
            "attached",
            shorten={
                "timeout client 60s": "timeout client 1s",
                "timeout server 60s": "timeout server 1s",
            },
        )
    )
    launch = launch_of("pass")
    heard = asyncio.create_task(creation_of(door, launch.name))
    await asyncio.sleep(3)  # three times what HAProxy grants anything that is not a stream
    assert not heard.done()
    await engine.create(launch, {})
    assert (await heard).action == "create"


async def creation_of(door, name):
    async with asyncio.timeout(PATIENCE), aclosing(door.events()) as events:
        async for event in events:
            if (event.name, event.action) == (name, "create"):
                return event
    raise AssertionError("the stream ended by itself")


async def test_a_proxy_whose_docker_is_away_is_unreachable(proxy):
    door = DockerEngine(
        proxy("attached", shorten={"unix@/var/run/docker.sock": "unix@/var/run/none.sock"})
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while "503" not in (said := await problem_of(door.inspect("any"))).detail:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # until HAProxy listens: another process
    finally:
        await door.close()
    assert said.problem is DockerProblem.UNREACHABLE


async def problem_of(call) -> DockerError:
    with pytest.raises(DockerError) as caught:
        await call
    return caught.value


def refusals(daemon) -> list[str]:
    """What Docker was asked in vain; a machine that is busy may be late with an answer."""
    failed = daemon.logged("docker.failed")
    return [line["detail"] for line in failed if line["problem"] != "timeout"]


async def test_the_daemon_keeps_a_container_of_its_own_through_the_managed_list(managed, case):
    async with supervised(case.config(docker_host=managed)) as daemon:
        await daemon.until_state("ready")
        case.api.kill(case.name)
        await daemon.until_state("backing_off")
        await daemon.until_state("ready")
        case.api.remove_container(case.name, force=True)
        await daemon.until_state("backing_off")
        ready = await daemon.until_state("ready")
        assert ready.count("vllm_container_restarts_total") == 2
        assert refusals(daemon) == []


async def test_the_daemon_watches_through_the_attached_list_and_asks_for_nothing_more(
    attached, case
):
    case.make()
    async with supervised(case.attached_config(docker_host=attached)) as daemon:
        await daemon.until_state("ready")
        case.api.kill(case.name)
        seen = await daemon.until_state("unhealthy")
        assert seen.cause == "killed"
        assert seen.value("vllm_container_exit_code") == 137
        case.api.start(case.name)
        await daemon.until_state("ready")
        case.api.remove_container(case.name, force=True)
        await daemon.until_state("absent")
        assert refusals(daemon) == []
        assert daemon.logged("container.action") == []


async def test_the_daemon_restarts_through_the_attached_list_if_both_allow_it(
    attached_with_restart, case
):
    case.make()
    file = case.attached_config(docker_host=attached_with_restart, restart="always")
    async with supervised(file) as daemon:
        await daemon.until_state("ready")
        case.api.kill(case.name)
        ready = await daemon.until(
            "it is restarted",
            lambda page: page.count("vllm_container_restarts_total", reason="killed") == 1,
        )
        await daemon.until_state("ready")
        assert ready.count("vllm_container_docker_up") == 1
        assert refusals(daemon) == []


async def test_a_restart_that_the_list_does_not_allow_is_reported_as_denied(attached, case):
    case.make()
    file = case.attached_config(docker_host=attached, restart="always")
    async with supervised(file) as daemon:
        await daemon.until_state("ready")
        case.api.kill(case.name)
        seen = await daemon.until("it is reported", lambda page: page.cause == "docker_denied")
        assert seen.state in {"backing_off", "starting"}
        assert "does not allow POST" in json.dumps(daemon.logged("container.action_refused"))
