"""The image: small, without unneeded programs, and working when confined."""

from __future__ import annotations

import json
import secrets
import subprocess

import pytest
from deploy_stack import run

pytestmark = pytest.mark.docker

CONFINED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none")  # noqa: S108


@pytest.fixture(scope="module")
def facts(image):
    return json.loads(run("docker", "image", "inspect", image))[0]


def test_the_image_is_below_250_megabytes(facts):
    assert facts["Size"] < 250e6


def test_the_image_runs_as_an_unprivileged_user(facts, image):
    user, _, group = facts["Config"]["User"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert run("docker", "run", "--rm", "--entrypoint", "id", image, "-u").strip() == user


def test_the_image_has_its_labels(facts):
    labels = facts["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "vllm-cache-exporter"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    from exporter import __version__  # noqa: PLC0415 - the checkout's, beside the image's

    assert labels["org.opencontainers.image.version"] == __version__
    assert "org.opencontainers.image.revision" not in labels  # this build was told none


def test_the_image_says_the_revision_that_its_build_was_told(image):
    name = f"vce-test:{secrets.token_hex(6)}"
    run("docker", "build", "-q", "-t", name, "--build-arg", "REVISION=abc123", ".", timeout=600)
    try:
        assert "(revision abc123)" in run("docker", "run", "--rm", *CONFINED, name, "--version")
    finally:
        run("docker", "image", "rm", "-f", name)
    assert "revision" not in run("docker", "run", "--rm", *CONFINED, image, "--version")


def test_help_and_version_work_on_a_read_only_file_system(image):
    told = run("docker", "run", "--rm", *CONFINED, image, "--help")
    assert "simulate" in told
    told = run("docker", "run", "--rm", *CONFINED, image, "--version")
    assert told.startswith("vllm-cache-exporter ")


def test_a_missing_configuration_ends_with_code_2(image):
    done = subprocess.run(
        ["docker", "run", "--rm", *CONFINED, image], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "targets" in done.stderr


@pytest.mark.parametrize("tool", ["gcc", "cc", "make", "pip", "pip3"])
def test_the_image_has_no_compiler_and_no_installer(image, tool):
    shell = ["docker", "run", "--rm", "--entrypoint", "sh", image, "-c", f"command -v {tool}"]
    found = subprocess.run(shell, capture_output=True, check=False)
    assert (found.returncode, found.stdout) == (127, b"") or found.returncode == 1


@pytest.mark.parametrize("python", ["python", "/usr/bin/python3", "/usr/local/bin/python3"])
def test_no_python_in_the_image_can_import_an_installer(image, python):
    script = f"test -x $(command -v {python} || echo /none) || exit 0; ! {python} -c 'import pip'"
    run("docker", "run", "--rm", "--entrypoint", "sh", image, "-c", script)


@pytest.fixture
def start(image):
    name = f"vce-test-{secrets.token_hex(6)}"

    def started(*words: str) -> str:
        run("docker", "run", "-d", "--name", name, "--health-interval", "1s", *CONFINED, *words)
        return name

    yield started
    subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("simulate", "--host", "0.0.0.0"),  # noqa: S104 - inside a container
        ("simulate", "--port", "8123"),
        ("run", "--targets", '[{"url": "http://127.0.0.1:1"}]'),
    ],
    ids=["simulate", "another port", "run"],
)
def test_docker_reports_healthy_for_each_command(image, start, until_health, words):
    until_health(start(image, *words), "healthy")


def test_docker_reports_unhealthy_when_nothing_answers(image, start, until_health):
    name = start(
        "--health-start-period",
        "1ms",
        "--health-retries",
        "1",
        "--entrypoint",
        "sleep",
        image,
        "99",
    )
    until_health(name, "unhealthy")


def test_the_container_ends_at_once_when_docker_stops_it(image, start, until_health):
    name = start(image, "run", "--targets", '[{"url": "http://127.0.0.1:1"}]')
    until_health(name, "healthy")
    run("docker", "stop", "--time", "20", name)
    assert run("docker", "inspect", "-f", "{{.State.ExitCode}}", name).strip() == "0"
