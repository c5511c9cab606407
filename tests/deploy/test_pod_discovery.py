"""The pod of the chart, run in Docker with a service account and an API that imitates Kubernetes'."""

from __future__ import annotations

import json
import re
import secrets
import time
from typing import TYPE_CHECKING

import pytest
from deploy_stack import PATIENCE, ROOT, run
from helm_chart import NAME
from web_files import CERTIFICATES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.docker

FAKE = ROOT / "tests" / "support" / "daemon" / "fake_kubernetes.py"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
SERVE = """
import asyncio, json, pathlib, ssl, sys
sys.path.insert(0, "/fake")
from fake_kubernetes import FakeKubernetes, pod_object

async def serve():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("/certificates/first.pem", "/certificates/first.key")
    cluster = FakeKubernetes(port=6443)
    cluster.tokens = {"token-1"}
    await cluster.start(context)
    known = {}
    while True:
        pods = json.loads(pathlib.Path("/pods/pods.json").read_text())
        for name in known.keys() - pods.keys():
            await cluster.delete(name)
        for name, ip in pods.items():
            if known.get(name) != ip:
                await cluster.put(pod_object(name, ip=ip))
        known = pods
        await asyncio.sleep(0.2)

asyncio.run(serve())
"""


@pytest.fixture
def name():
    """A name for the network and, with a suffix, for each container; all are removed at the end."""
    some = f"vce-test-{secrets.token_hex(6)}"
    run("docker", "network", "create", some)
    yield some
    left = run("docker", "ps", "-aq", "--filter", f"name={some}").split()
    run("docker", "rm", "-f", *left)
    run("docker", "network", "rm", some)


def engines(image, name) -> dict[str, str]:
    """The addresses of two simulated engines by the names of their pods."""
    command = ["simulate", "--host", "0.0.0.0", "--port", "8000"]  # noqa: S104
    for pod in "ab":
        run("docker", "run", "-d", "--name", f"{name}-{pod}", "--network", name, image, *command)
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return {pod: run("docker", "inspect", "-f", form, f"{name}-{pod}").strip() for pod in "ab"}


@pytest.fixture
def cluster(image, name, tmp_path) -> tuple[Path, dict[str, str]]:
    """The file with the pods of a cluster whose API listens at 127.0.0.1:6443 of `NAME-api`, and the
    addresses of its engines.
    """
    folder = tmp_path / "pods"
    folder.mkdir()
    file = folder / "pods.json"
    file.write_text("{}")
    mounts = {folder: "/pods", FAKE.parent: "/fake", CERTIFICATES: "/certificates"}
    volumes = [word for path, at in mounts.items() for word in ("-v", f"{path}:{at}:ro")]
    place = ["--name", f"{name}-api", "--network", name, "--user", "0", "--entrypoint", "python"]
    run("docker", "run", "-d", *place, *volumes, image, "-c", SERVE)
    return file, engines(image, name)


def account(folder: Path) -> Path:
    """A service account as the kubelet mounts it: readable for the group of the pod alone."""
    folder.mkdir()
    for name, text in {
        "token": "token-1",
        "namespace": "vllm",
        "ca.crt": (CERTIFICATES / "ca.pem").read_text(),
    }.items():
        (folder / name).write_text(text)
    return folder


def test_the_pod_of_the_chart_finds_pods_by_its_service_account(
    helm, image, name, cluster, tmp_path
):
    source = {"namespaces": ["vllm"], "refresh_seconds": 1, "gone_after_seconds": 0}
    found = helm.objects({"config": {"discovery": {"kubernetes": [source]}}})
    pod = found["Deployment", NAME]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"]
    places = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    config = tmp_path / "exporter.toml"
    config.write_text(found["ConfigMap", NAME]["data"]["exporter.toml"])
    no_secret = tmp_path / "secrets"  # as the kubelet mounts an optional Secret that does not exist
    no_secret.mkdir()
    user = pod["securityContext"]
    run(
        *("docker", "run", "-d", "--name", f"{name}-exporter", *HARDENED),
        *("--network", f"container:{name}-api"),
        *("--user", f"{user['runAsUser']}:{user['runAsGroup']}"),
        *("--tmpfs", f"{places['tmp']}:size=16m"),
        *("-v", f"{config}:{places['config']}/exporter.toml:ro"),
        *("-v", f"{account(tmp_path / 'account')}:{ACCOUNT}:ro"),
        *("-v", f"{no_secret}:{places['secrets']}:ro"),
        *("-e", "KUBERNETES_SERVICE_HOST=127.0.0.1", "-e", "KUBERNETES_SERVICE_PORT=6443"),
        *(image, *container["args"]),
    )
    (port,) = container["ports"]
    read = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"

    def measured() -> dict[str, str]:
        url = f"http://127.0.0.1:{port['containerPort']}/metrics"
        page = run("docker", "exec", f"{name}-exporter", "python", "-c", read, url)
        return dict(re.findall(r'vllm_probe_up{target="(.+)"} ([01])', page))

    def until_measured(*names: str) -> None:
        wanted = dict.fromkeys(names, "1")
        deadline, seen = time.monotonic() + PATIENCE, None
        while time.monotonic() < deadline:
            try:
                seen = measured()
            except AssertionError as error:  # it does not answer yet
                seen = str(error)
            if seen == wanted:
                return
            time.sleep(0.3)
        raise AssertionError(f"not within {PATIENCE:g} s: {wanted}; last seen: {seen}")

    pods, addresses = cluster
    until_measured()
    pods.write_text(json.dumps(addresses))
    until_measured("vllm.a", "vllm.b")
    del addresses["a"]
    pods.write_text(json.dumps(addresses))
    until_measured("vllm.b")
