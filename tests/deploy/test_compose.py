"""compose.yaml as Compose reads it, with each of its three env files, and the settings in it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from exporter import config

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
WAYS = {
    "simulator": (),
    "gpu": ("--env-file", "deploy/gpu.env"),
    "attached": ("--env-file", "deploy/attached.env"),
}
OURS = ("ENGINE", "EXPORTER", "MODEL_ID", "HF_TOKEN", "GPU_MEM", "MAX_MODEL", "COMPOSE", "ATTACHED")


def read(*options: str, **environment: str) -> dict:
    """The model after interpolation, without the variables of this shell."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    done = subprocess.run(
        ["docker", "compose", *options, "config", "--format", "json"],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr
    return json.loads(done.stdout)


def target_of(way: str, **environment: str):
    """The target that the exporter would supervise, from the files and variables of that stack."""
    exporter = read(*WAYS[way], **environment)["services"]["exporter"]
    assert exporter["command"][:2] == ["run", "--config"]
    name = Path(exporter["command"][2]).name
    loaded = config.load(
        config_file=ROOT / "deploy" / "exporter" / name,
        environ={k: v for k, v in exporter["environment"].items() if v is not None},
        dotenv=None,
        targets_required=True,
    )
    (target,) = loaded.settings.targets
    return target


@pytest.fixture(params=WAYS)
def model(request, compose):
    return read(*WAYS[request.param])


def test_every_service_has_a_health_check_limits_and_a_restart_policy(model):
    assert model["name"] == "vllm-cache-exporter"
    for name, service in model["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"], name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert service["cap_drop"] == ["ALL"], name
        tag = service["image"].rpartition(":")[2]
        assert tag[:1].isdigit() or tag[:1] == "v", f"{name} has no pinned tag: {service['image']}"


def test_ports_are_published_only_on_loopback(model):
    published = [port for each in model["services"].values() for port in each.get("ports", ())]
    assert {port["target"] for port in published} == {9477, 9090, 9093, 3000}
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_only_the_proxy_has_the_docker_socket_and_only_the_exporter_has_the_proxy(model):
    services = model["services"]
    with_socket = {
        name
        for name, service in services.items()
        for mount in service.get("volumes", ())
        if mount["target"] == "/var/run/docker.sock"
    }
    assert with_socket == {"docker-proxy"}
    assert {n for n, s in services.items() if "control" in s["networks"]} == {
        "docker-proxy",
        "exporter",
    }
    assert "ports" not in services["docker-proxy"]
    assert model["networks"]["control"]["internal"]


def test_every_mounted_file_exists(model):
    for service in model["services"].values():
        for mount in service.get("volumes", ()):
            if mount["type"] == "bind" and mount["target"] != "/var/run/docker.sock":
                assert Path(mount["source"]).exists()
                assert mount["read_only"]


def test_prometheus_and_the_exporter_use_the_same_engine(compose):
    for way, options in WAYS.items():
        target = target_of(way)
        (scraped,) = json.loads(read(*options)["configs"]["engine-target"]["content"])
        assert [target.base_url] == [f"http://{address}" for address in scraped["targets"]]
        assert scraped["labels"] == {"target": target.name}


def test_the_default_engine_is_the_simulator_without_gpu_or_token(compose):
    target = target_of("simulator", MODEL_ID="leaks", HF_TOKEN="leaks")
    container = target.container
    assert (target.mode, container.gpus, container.hf_token) == ("managed", 0, None)
    assert container.command[0] == "simulate"
    assert container.image == read()["services"]["exporter"]["image"]
    assert container.network == read()["networks"]["engine"]["name"]
    assert container.on_shutdown == "remove"


def test_gpu_env_takes_the_shell_s_variables(compose):
    target = target_of(
        "gpu", MODEL_ID="some/model", HF_TOKEN="hf_x", MAX_MODEL_LEN="4096", ENGINE_GPUS="2"
    )
    container = target.container
    assert (container.model, container.max_model_len, container.gpus) == ("some/model", 4096, 2)
    assert container.on_shutdown == "leave", "a restart of the exporter must not unload a model"
    assert container.hf_token.get_secret_value() == "hf_x"
    assert container.image.startswith("vllm/vllm-openai:v")


def test_gpu_env_uses_all_gpus_and_no_token_by_default(compose):
    container = target_of("gpu").container
    assert (container.gpus, container.hf_token, container.max_model_len) == ("all", None, None)


def test_attached_env_joins_an_existing_network_and_only_watches(compose):
    model = read(*WAYS["attached"], ENGINE_NETWORK="mine_default", ENGINE_ADDRESS="llm:9000")
    assert model["networks"]["engine"] == {"name": "mine_default", "external": True, "ipam": {}}
    mounts = model["services"]["docker-proxy"]["volumes"]
    assert any(mount["source"].endswith("socket-proxy/attached.cfg") for mount in mounts)
    target = target_of("attached", ENGINE_ADDRESS="llm:9000")
    assert (target.mode, target.base_url) == ("attached", "http://llm:9000")
    assert not target.may_restart


def test_attached_env_restarts_if_configured(compose):
    assert target_of("attached", ATTACHED_RESTART="1").may_restart
    model = read(*WAYS["attached"], ATTACHED_RESTART="1")
    assert model["services"]["docker-proxy"]["environment"]["ALLOW_RESTART"] == "1"


def test_runbooks_are_served_by_prometheus_so_they_are_there_when_the_exporter_is_down(model):
    prometheus = model["services"]["prometheus"]
    (port,) = prometheus["ports"]
    url = prometheus["environment"]["RUNBOOKS_URL"]
    assert url == f"http://localhost:{port['published']}/user"
    (assets,) = (w for w in prometheus["command"] if w.startswith("--web.user-assets="))
    mounted = {mount["target"]: Path(mount["source"]) for mount in prometheus["volumes"]}
    assert mounted[assets.partition("=")[2]] == ROOT / "docs/runbooks"


def test_the_exporter_s_image_is_built_again_unless_another_policy_is_chosen(compose):
    """Images of other checkouts have the same tag."""
    default = read()["services"]["exporter"]
    assert default["pull_policy"] == "build"
    assert default["build"]["args"] == {"REVISION": ""}
    chosen = read(EXPORTER_PULL_POLICY="missing", EXPORTER_REVISION="abc")["services"]["exporter"]
    assert chosen["pull_policy"] == "missing"
    assert chosen["build"]["args"] == {"REVISION": "abc"}
