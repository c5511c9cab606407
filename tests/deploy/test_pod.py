"""The pod of the manifests, run in Docker: its image, arguments, mounts and confinement."""

from __future__ import annotations

import re
import secrets
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from deploy_stack import PATIENCE, run

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.docker

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
CONFIG = FOLDER / "exporter.toml"
KEY = "sk-canary"
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
READ = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"


def until(what: str, happens: Callable[[], object]) -> None:
    """Wait until it is true. A container that does not answer yet is no failure."""
    deadline, seen = time.monotonic() + PATIENCE, "nothing"
    while time.monotonic() < deadline:
        try:
            if happens():
                return
        except AssertionError as error:
            seen = str(error)
        time.sleep(0.3)
    raise AssertionError(f"not within {PATIENCE:g} s: {what}; last seen: {seen}")


@pytest.fixture(scope="module")
def pod():
    deployment = yaml.safe_load((FOLDER / "deployment.yaml").read_text("utf-8"))
    return deployment["spec"]["template"]["spec"]


@pytest.fixture
def name():
    """A name for the network and, with a suffix, for each container; all are removed at the end."""
    some = f"vce-test-{secrets.token_hex(6)}"
    run("docker", "network", "create", some)
    yield some
    left = run("docker", "ps", "-aq", "--filter", f"name={some}").split()
    run("docker", "rm", "-f", *left)
    run("docker", "network", "rm", some)


@pytest.fixture
def replicas(image, name, tmp_path):
    """Two engines behind one name, as with the headless Service; both require the key."""
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o444)
    (source,) = tomllib.loads(CONFIG.read_text("utf-8"))["discovery"]["dns"]
    command = ["simulate", "--host", "0.0.0.0", "--port", str(source["port"])]  # noqa: S104
    for number in range(2):
        alias = ["--network", name, "--network-alias", source["host"]]
        mount = ["-v", f"{key}:/key:ro"]
        words = [*alias, *mount, image, *command, "--api-key-file", "/key"]
        run("docker", "run", "-d", "--name", f"{name}-{number}", *words)
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return {run("docker", "inspect", "-f", form, f"{name}-{n}").strip() for n in range(2)}


def test_the_pod_finds_and_measures_each_replica_with_the_key_from_the_secret(
    image, name, pod, replicas, tmp_path
):
    (container,) = pod["containers"]
    places = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    user = pod["securityContext"]
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "VLLM_EXPORTER_DISCOVERY__DNS__0__API_KEY").write_text(KEY)
    memory = container["resources"]["limits"]["memory"].replace("Mi", "m")
    run(
        *("docker", "run", "-d", "--name", f"{name}-exporter", "--network", name, *HARDENED),
        *("--user", f"{user['runAsUser']}:{user['runAsGroup']}", "--memory", memory),
        *("--tmpfs", f"{places['tmp']}:size=16m"),
        *("-v", f"{CONFIG}:{places['config']}/exporter.toml:ro"),
        *("-v", f"{secret}:{places['secrets']}:ro"),
        *(image, *container["args"]),
    )
    (port,) = container["ports"]

    def page(path: str) -> str:
        url = f"http://127.0.0.1:{port['containerPort']}{path}"
        return run("docker", "exec", f"{name}-exporter", "python", "-c", READ, url)

    for probe in ("livenessProbe", "readinessProbe"):
        path = container[probe]["httpGet"]["path"]
        until(f"{path} answers 200", lambda path=path: page(path) or True)
    wanted = {f"vllm-{address}" for address in replicas}
    until(
        "both are measured",
        lambda: set(re.findall(r'vllm_probe_up{target="(.+)"} 1', page("/metrics"))) == wanted,
    )
