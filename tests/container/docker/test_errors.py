"""Docker's refusals, sorted by status and by the words that a Docker Engine 26.1 used."""

from __future__ import annotations

import json
from contextlib import suppress

import docker.errors
import pytest
import requests
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.container.decide.records import DockerError, DockerProblem, PullProgress
from exporter.container.docker.engine import DockerEngine, DockerLimits
from exporter.container.docker.errors import sort_answer, translated

RECORDED = """
500 gpu_driver_missing could not select device driver "" with capabilities: [[gpu]]
500 port_taken driver failed programming external connectivity on endpoint x (e667): Error starting userland proxy: listen tcp4 127.0.0.1:19235: bind: address already in use
500 port_taken driver failed programming external connectivity on endpoint x (4cc0): Bind for 127.0.0.1:19236 failed: port is already allocated
404 image_not_found No such image: nosuch/image:1
404 not_found No such container: 7e243d25
404 bad_request network nonet not found
500 registry_unreachable Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io on 10.255.255.53:53: no such host
409 conflict Conflict. The container name "/x" is already in use by container "aa15". You have to remove (or rename) that container to be able to reuse that name.
400 bad_request invalid mount config for type "bind": bind source path does not exist: /x
"""
# From the sources of Docker and of NVIDIA's toolkit and from reports of users. 0: within a stream.
REPORTED = """
404 image_not_found pull access denied for nosuch/image, repository does not exist or may require 'docker login': denied: requested access to the resource is denied
404 image_not_found manifest for vllm/vllm-openai:v9 not found: manifest unknown: manifest unknown
0 image_not_found no matching manifest for linux/arm64/v8 in the manifest list entries
500 registry_unreachable toomanyrequests: You have reached your pull rate limit.
0 registry_unreachable net/http: TLS handshake timeout
500 no_space failed to register layer: write /usr/lib/x.so: no space left on device
0 no_space write /var/lib/docker/tmp/x: no space left on device
500 gpu_driver_missing failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: error running hook #0: exit status 1, stderr: nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file: no such file or directory
500 gpu_driver_missing unknown or invalid runtime name: nvidia
500 gpu_driver_missing failed to create task for container: CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all
500 api_error something that nobody has seen before
0 api_error something that nobody has seen before
"""
REFUSALS = [line.split(" ", 2) for line in (RECORDED + REPORTED).splitlines() if line]


@pytest.mark.parametrize(("status", "problem", "words"), REFUSALS)
def test_a_refusal_is_sorted(status, problem, words):
    assert sort_answer(int(status) or None, words) == problem


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_by_a_proxy_is_permission_denied_with_any_message(status):
    assert sort_answer(status, "no such container") is DockerProblem.PERMISSION_DENIED


def test_the_cause_is_kept():
    cause = docker.errors.DockerException("odd")
    with pytest.raises(DockerError) as caught, translated("do it"):
        raise cause
    assert caught.value.__cause__ is cause
    assert caught.value.detail == "do it: odd"


def test_our_own_error_passes_as_it_is():
    ours = DockerError(DockerProblem.NO_SPACE, "full")
    with pytest.raises(DockerError) as caught, translated("do it"):
        raise ours
    assert caught.value is ours


def test_a_timeout_while_the_body_is_read_is_a_timeout():
    # requests calls that one a ConnectionError, with urllib3's reason inside.
    inner = requests.packages.urllib3.exceptions.ReadTimeoutError(None, "/", "Read timed out.")
    with pytest.raises(DockerError) as caught, translated("do it"):
        raise requests.ConnectionError(inner)
    assert caught.value.problem is DockerProblem.TIMEOUT


@pytest.fixture
async def door_to():
    """A door to an HTTP server that answers everything alike, once the version is known."""
    runners, doors = [], []

    async def make(answer, scheme="tcp"):
        async def handle(request):
            if request.path == "/version":
                return web.json_response({"ApiVersion": "1.45"})
            return answer(request)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        doors.append(DockerEngine(f"{scheme}://127.0.0.1:{port}", DockerLimits(query=30)))
        return doors[-1]

    yield make
    for door in doors:
        await door.close()
    for runner in runners:
        await runner.cleanup()


PAGE = "<html><body><h1>Nope</h1></body></html>"


@pytest.mark.parametrize(
    ("status", "body", "problem", "words"),
    [
        (403, PAGE, DockerProblem.PERMISSION_DENIED, "403 Forbidden"),
        (403, '{"message": "not on the list"}', DockerProblem.PERMISSION_DENIED, "not on the list"),
        (502, PAGE, DockerProblem.UNREACHABLE, "502 Bad Gateway"),
        (503, PAGE, DockerProblem.UNREACHABLE, "503 Service Unavailable"),
        (504, PAGE, DockerProblem.TIMEOUT, "504 Gateway Timeout"),
        (404, '{"message": "page not found"}', DockerProblem.API_ERROR, "page not found"),
        (500, '["odd"]', DockerProblem.API_ERROR, "500 Internal Server Error"),
        (200, PAGE, DockerProblem.API_ERROR, "Expecting value"),
        (200, '{"Id": "x"}', DockerProblem.API_ERROR, "State"),
    ],
)
async def test_an_answer_of_a_proxy_or_of_something_else_is_sorted(
    door_to, status, body, problem, words
):
    door = await door_to(lambda _: web.Response(status=status, text=body))
    with pytest.raises(DockerError) as caught:
        await door.start("any") if status != 200 else await door.inspect("any")
    assert caught.value.problem is problem
    assert words in caught.value.detail


async def test_the_proxies_of_the_environment_do_not_stand_between_us_and_docker(
    door_to, monkeypatch
):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    door = await door_to(lambda _: web.json_response([]))
    assert await door.find("a=b") == ()


@pytest.mark.parametrize(("status", "ends"), [("running", False), ("exited", True)])
async def test_the_end_of_a_log_counts_only_if_the_container_has_ended(door_to, status, ends):
    # A daemon or a proxy that shuts down may end its answers as if they were complete.
    inspect = {
        "Id": "x",
        "Name": "/x",
        "Image": "sha256:0",
        "State": {
            "Status": status,
            "OOMKilled": False,
            "ExitCode": 0,
            "StartedAt": "2026-11-24T20:21:57Z",
            "FinishedAt": "2026-11-24T20:21:58Z",
        },
        "Config": {"Image": "i", "Tty": True},
        "NetworkSettings": {},
    }

    def answer(request):
        if request.path.endswith("/json"):
            return web.json_response(inspect)
        return web.Response(body=in_pieces([b"2026-11-24T20:21:57.5Z line\r\n"]))

    door = await door_to(answer)
    lines, problem = [], None
    try:
        async for line in door.logs("x", None):
            lines.append(line.text)  # noqa: PERF401 - what came before the error counts
    except DockerError as exc:
        problem = exc.problem
    assert lines == ["line"]
    assert problem == (None if ends else DockerProblem.UNREACHABLE)


async def in_pieces(pieces):
    for piece in pieces:
        yield piece


async def test_a_host_may_be_written_as_http(door_to):
    door = await door_to(lambda _: web.json_response([]), scheme="http")
    assert await door.find("a=b") == ()


async def test_a_host_that_should_speak_tls_and_does_not_is_unreachable(door_to):
    door = await door_to(lambda _: web.json_response([]), scheme="https")
    with pytest.raises(DockerError) as caught:
        await door.find("a=b")
    assert caught.value.problem is DockerProblem.UNREACHABLE


async def test_an_error_in_the_middle_of_a_pull_has_its_problem(door_to):
    lines = (
        {"status": "Pulling fs layer", "id": "l"},
        {"errorDetail": {"message": "…"}, "error": "write /x: no space left on device"},
    )

    pieces = [json.dumps(line).encode() + b"\r\n" for line in lines]
    door = await door_to(lambda _: web.Response(body=in_pieces(pieces)))
    told = []
    with pytest.raises(DockerError) as caught:
        await door.pull("some/image:1", told.append)
    assert caught.value.problem is DockerProblem.NO_SPACE
    assert told == [PullProgress(0, 1, 0, 0)]


WORDS = ["Id", "State", "Config", "Status", "Name", "Image", "message", "Created"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=6,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=JSON, status=st.sampled_from([200, 400, 404, 409, 500]))
async def test_any_json_in_an_answer_leads_to_docker_error_at_most(door_to, answer, status):
    door = await door_to(lambda _: web.json_response(answer, status=status))
    for call in (door.inspect("x"), door.find("a=b"), door.has_image("x"), door.tail("x", 1)):
        with suppress(DockerError):
            await call
