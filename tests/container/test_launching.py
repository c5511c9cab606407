"""The container that a managed target's settings describe."""

from __future__ import annotations

import pytest
from commands import run_command

from exporter.config import Target
from exporter.container.decide.launch import docker_run_line
from exporter.container.decide.records import (
    CONFIG_HASH_LABEL,
    INSTANCE_LABEL,
    MANAGED_LABEL,
    GpuRequest,
    Launch,
    Mount,
)
from exporter.container.launching import launch_of

NO_CACHES = {"hf_cache": "none", "vllm_cache": "none"}


def launched(*, instance: str | None = None, api_key: str | None = None, **container) -> Launch:
    own = {} if "command" in container else {"model": "Qwen/Qwen3-0.6B"}
    target = Target(
        name="local",
        mode="managed",
        url="http://engine:8000" if container.get("host_port") == 0 else None,
        api_key=api_key,
        container=NO_CACHES | own | container,
    )
    return launch_of(target, instance)


def test_the_hash_is_the_same_in_every_process_and_release():
    launch = launched(image="vllm/vllm-openai:v0.32.0")
    assert launch.labels[CONFIG_HASH_LABEL] == "v1-b7bb39ab0139f8cc"
    assert launched(instance="a").labels[CONFIG_HASH_LABEL] == "v1-b7bb39ab0139f8cc"


def test_no_value_of_a_secret_can_be_in_a_launch():
    launch = launched(
        hf_token="hf_1", hf_token_as="environment", secret_environment={"MINE": "s"}, api_key="k"
    )
    assert launch.secret_environment == ("HF_TOKEN", "MINE", "VLLM_API_KEY")
    assert "-e HF_TOKEN -e MINE -e VLLM_API_KEY" in docker_run_line(launch)
    assert "HF_TOKEN" not in launch.environment


def test_a_token_as_a_file_is_named_to_the_hub_library_and_no_variable_has_it():
    launch = launched(hf_token="hf_1")
    assert launch.secret_files == {"HF_TOKEN": launch.environment["HF_TOKEN_PATH"]}
    assert launch.secret_environment == ()
    assert launch.mounts == ()
    assert "-e HF_TOKEN " in docker_run_line(launch)  # docker run has no other way


def test_the_model_comes_first_and_the_users_arguments_last():
    launch = launched(
        served_model_name="tiny",
        gpu_memory_utilization=0.85,
        max_model_len=8192,
        block_size=32,
        prefix_caching=False,
        args=("--dtype", "float32"),
    )
    assert launch.command == (
        "Qwen/Qwen3-0.6B",
        "--served-model-name",
        "tiny",
        "--gpu-memory-utilization",
        "0.85",
        "--max-model-len",
        "8192",
        "--block-size",
        "32",
        "--enable-prompt-tokens-details",
        "--no-enable-prefix-caching",
        "--dtype",
        "float32",
    )


def test_no_flag_is_added_that_was_not_asked_for():
    launch = launched(enable_prompt_tokens_details=False)
    assert launch.command == ("Qwen/Qwen3-0.6B",)
    assert launch.environment == {}
    assert launch.mounts == ()


def test_the_labels_name_the_target_and_the_exporter():
    labels = launched(instance="a").labels
    assert (labels[MANAGED_LABEL], labels[INSTANCE_LABEL]) == ("local", "a")
    assert INSTANCE_LABEL not in launched().labels


def test_the_caches_and_the_mounts_of_the_settings_are_mounted():
    launch = launched(hf_cache="/cache", vllm_cache="compiled", mounts=["/models:/models:ro"])
    assert launch.mounts == (
        Mount("/cache", "/root/.cache/huggingface"),
        Mount("compiled", "/root/.cache/vllm"),
        Mount("/models", "/models", read_only=True),
    )


@pytest.mark.parametrize(
    ("gpus", "request_"),
    [
        ("all", GpuRequest(count=-1)),
        (0, None),
        (2, GpuRequest(count=2)),
        ("device=0,1", GpuRequest(device_ids=("0", "1"))),
    ],
)
def test_gpus_are_all_or_a_count_or_ids(gpus, request_):
    assert launched(gpus=gpus).gpus == request_


def test_the_port_is_published_on_loopback_by_default():
    assert "-p 127.0.0.1:8000:8000" in docker_run_line(launched())
    assert "-p '[::1]:8000:8000'" in docker_run_line(launched(host_ip="::1"))
    assert " -p " not in docker_run_line(launched(host_port=0))


def test_on_the_hosts_network_vllm_itself_listens_on_the_port_of_the_host():
    launch = launched(network="host", host_port=9001)
    assert launch.host_port is None
    assert launch.container_port == 9001
    assert " ".join(launch.command).startswith("Qwen/Qwen3-0.6B --host 127.0.0.1 --port 9001")


def test_the_hosts_ipc_comes_without_a_size_of_its_own():
    assert launched(ipc_host=True, shm_size="1g").shm_bytes is None
    assert launched(shm_size="1g").shm_bytes == 2**30


def test_another_command_replaces_vllms_whole():
    assert launched(command=["simulate", "--port", "1"]).command == ("simulate", "--port", "1")


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("v0.9.2", "vllm/vllm-openai:v0.9.2 --model org/model "),
        ("v0.11.2", "vllm/vllm-openai:v0.11.2 --model org/model "),
        ("v0.12.0", "vllm/vllm-openai:v0.12.0 org/model "),
        ("v0.32.0", "vllm/vllm-openai:v0.32.0 org/model "),
    ],
)
def test_the_line_that_launch_prints_fits_the_tag_where_docker_has_no_image(tmp_path, tag, words):
    file = tmp_path / "exporter.toml"
    file.write_text(
        f"[[targets]]\nmode = 'managed'\n[targets.container]\nmodel = 'org/model'\n"
        f"image = 'vllm/vllm-openai:{tag}'\ndocker_host = 'unix://{tmp_path}/none.sock'\n"
    )
    done = run_command("launch", "--print", "--config", str(file))
    assert done.code == 0, done.errors
    assert words in done.output
