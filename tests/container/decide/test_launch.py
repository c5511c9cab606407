"""The container that settings describe, its hash, and the equal `docker run` line."""

from __future__ import annotations

import csv
import shlex
import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.container.decide.launch import (
    DEFAULT_IMAGE,
    LaunchSpec,
    TokenPlace,
    config_hash,
    docker_run_line,
    for_image,
    has_drifted,
    is_another_model,
    parse_gpus,
    plan,
)
from exporter.container.decide.records import (
    CONFIG_HASH_LABEL,
    MANAGED_LABEL,
    ContainerSnapshot,
    ContainerStatus,
    GpuRequest,
    Launch,
    Mount,
)

SPEC = LaunchSpec(target="local", name="vllm-local", model="Qwen/Qwen3-0.6B")

# Anything a shell could trip over, but no NUL: an argument vector cannot hold it.
words = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs",)), max_size=12
)
names = st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True)
paths = words.map(lambda w: "/" + w.replace("\n", " ").replace("\r", " "))
gpu_requests = st.one_of(
    st.none(),
    st.just(GpuRequest(count=-1)),
    st.integers(1, 16).map(lambda n: GpuRequest(count=n)),
    st.lists(st.sampled_from(["0", "1", "GPU-3f2"]), min_size=1, max_size=3).map(
        lambda ids: GpuRequest(device_ids=tuple(ids))
    ),
)
specs = st.builds(
    LaunchSpec,
    target=names,
    name=names,
    model=words.filter(bool),
    served_model_name=st.none() | words,
    gpu_memory_utilization=st.none() | st.floats(0.01, 1),
    max_model_len=st.none() | st.integers(1, 10**6),
    prompt_tokens_details=st.booleans(),
    prefix_caching=st.none() | st.booleans(),
    block_size=st.none() | st.sampled_from([16, 32, 128]),
    args=st.lists(words, max_size=4).map(tuple),
    gpus=gpu_requests,
    ipc_host=st.booleans(),
    shm_bytes=st.none() | st.integers(1, 10**10),
    memory_bytes=st.none() | st.integers(1, 10**10),
    huggingface_cache=st.none() | paths | st.just("hf-cache"),
    compile_cache=st.none() | paths,
    mounts=st.lists(st.builds(Mount, paths, paths, st.booleans()), max_size=2).map(tuple),
    hf_token=st.sampled_from([None, *TokenPlace]),
    hf_token_host_file=st.none() | paths,
    environment=st.dictionaries(names, words, max_size=3),
    secret_environment=st.lists(names, max_size=2).map(tuple),
    labels=st.dictionaries(names, words, max_size=3),
    network=st.none() | st.sampled_from(["bridge", "host", "vllm"]),
    host_ip=st.sampled_from(["127.0.0.1", "192.0.2.7", "::1"]),
    host_port=st.none() | st.integers(1, 65535),
    container_port=st.sampled_from([8000, 9000]),
)


def parse_run_line(line: str) -> tuple[dict[str, list[str]], list[str]]:
    """An independent reading of the line: options with their values, and what follows them."""
    argv = shlex.split(line)
    assert argv[:3] == ["docker", "run", "--detach"]
    options: dict[str, list[str]] = {}
    position = 3
    while position < len(argv) and argv[position].startswith("-"):
        options.setdefault(argv[position], []).append(argv[position + 1])
        position += 2
    return options, argv[position:]


def the_cells(text: str) -> list[str]:
    (row,) = csv.reader([text])
    return row


@given(specs)
def test_a_shell_reads_back_every_word_of_the_run_line(spec: LaunchSpec):
    launch = plan(spec)
    options, rest = parse_run_line(docker_run_line(launch))
    assert rest == [launch.image, *launch.command]
    assert options["--name"] == [launch.name]
    assert dict(o.split("=", 1) for o in options["--label"]) == launch.labels
    said = options.get("-e", [])
    assert dict(e.split("=", 1) for e in said if "=" in e) == launch.environment
    secrets = [*launch.secret_environment, *launch.secret_files]
    assert sorted(e for e in said if "=" not in e) == sorted(set(secrets))
    assert options.get("--shm-size", []) == ([str(launch.shm_bytes)] if launch.shm_bytes else [])
    assert options.get("--ipc", []) == (["host"] if launch.ipc_host else [])
    assert options.get("--network", []) == ([launch.network] if launch.network else [])


@given(specs)
def test_the_run_line_mounts_what_the_launch_mounts(spec: LaunchSpec):
    launch = plan(spec)
    options, _ = parse_run_line(docker_run_line(launch))
    mounted = []
    for text in options.get("--mount", []):
        cells = the_cells(text)
        pairs = dict(cell.split("=", 1) for cell in cells if cell != "readonly")
        assert pairs["type"] == ("bind" if pairs["source"].startswith("/") else "volume")
        mounted.append(Mount(pairs["source"], pairs["target"], "readonly" in cells))
    assert tuple(mounted) == launch.mounts


@given(specs)
def test_the_run_line_asks_for_the_same_gpus(spec: LaunchSpec):
    launch = plan(spec)
    options, _ = parse_run_line(docker_run_line(launch))
    if launch.gpus is None:
        assert "--gpus" not in options
        return
    (word,) = options["--gpus"]
    (cell,) = the_cells(word)
    if launch.gpus.device_ids:
        assert cell == "device=" + ",".join(launch.gpus.device_ids)
    else:
        assert cell == ("all" if launch.gpus.count == -1 else str(launch.gpus.count))


@given(specs)
def test_the_hash_does_not_depend_on_the_order_of_maps_and_mounts(spec: LaunchSpec):
    turned = replace(
        spec,
        environment=dict(reversed(list(spec.environment.items()))),
        labels=dict(reversed(list(spec.labels.items()))),
        mounts=tuple(reversed(spec.mounts)),
        secret_environment=tuple(reversed(spec.secret_environment)),
    )
    assert plan(turned).labels[CONFIG_HASH_LABEL] == plan(spec).labels[CONFIG_HASH_LABEL]


OTHER_VALUES: dict[str, object] = {
    "name": "other",
    "image": "vllm/vllm-openai:v0.31.0",
    "command": ("other",),
    "environment": {"A": "2"},
    "secret_environment": ("OTHER",),
    "labels": {"a": "b"},
    "mounts": (Mount("/other", "/b"),),
    "gpus": GpuRequest(device_ids=("1",)),
    "ipc_host": True,
    "shm_bytes": 7,
    "network": "other",
    "host_ip": "192.0.2.7",
    "host_port": 1,
    "container_port": 1,
    "memory_bytes": 7,
    "secret_files": {"A": "/a"},
}


@pytest.mark.parametrize("name", [f.name for f in fields(Launch)])
def test_the_hash_changes_with_every_field_of_the_launch(name: str):
    launch = plan(replace(SPEC, environment={"A": "1"}))
    changed = replace(launch, **{name: OTHER_VALUES[name]})
    assert config_hash(changed) != config_hash(launch)


def test_the_hash_is_not_part_of_what_it_is_the_hash_of():
    launch = plan(SPEC)
    assert config_hash(launch) == launch.labels[CONFIG_HASH_LABEL]


def test_the_hash_is_the_same_in_every_process():
    assert plan(SPEC).labels[CONFIG_HASH_LABEL] == "v1-69715726a0e6ce6a"


def test_no_value_of_a_token_can_be_in_a_launch():
    launch = plan(
        replace(SPEC, hf_token=TokenPlace.ENVIRONMENT, secret_environment=("VLLM_API_KEY",))
    )
    assert launch.secret_environment == ("HF_TOKEN", "VLLM_API_KEY")
    assert "-e HF_TOKEN -e VLLM_API_KEY" in docker_run_line(launch)
    assert "HF_TOKEN" not in launch.environment


def test_a_token_as_a_file_is_named_to_the_hub_library_and_no_variable_has_it():
    launch = plan(replace(SPEC, hf_token=TokenPlace.FILE))
    assert launch.secret_files == {"HF_TOKEN": launch.environment["HF_TOKEN_PATH"]}
    assert launch.secret_environment == ()
    assert launch.mounts == ()
    assert "-e HF_TOKEN " in docker_run_line(launch)  # docker run has no other way


def test_a_token_file_of_the_host_is_mounted_read_only():
    launch = plan(replace(SPEC, hf_token_host_file="/etc/hf"))
    assert launch.mounts == (Mount("/etc/hf", "/run/secrets/hf_token", read_only=True),)
    assert launch.environment == {"HF_TOKEN_PATH": "/run/secrets/hf_token"}


def test_the_model_comes_first_and_the_users_arguments_last():
    launch = plan(
        replace(
            SPEC,
            served_model_name="tiny",
            gpu_memory_utilization=0.85,
            max_model_len=8192,
            block_size=32,
            prefix_caching=False,
            args=("--dtype", "float32"),
        )
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


def test_nothing_is_said_that_was_not_asked_for():
    launch = plan(replace(SPEC, prompt_tokens_details=False))
    assert launch.command == ("Qwen/Qwen3-0.6B",)
    assert launch.image == DEFAULT_IMAGE
    assert launch.gpus == GpuRequest(count=-1)
    assert launch.labels[MANAGED_LABEL] == "local"
    assert launch.mounts == ()


def test_the_port_is_published_on_loopback_unless_told():
    assert "-p 127.0.0.1:8000:8000" in docker_run_line(plan(SPEC))
    assert "-p '[::1]:8000:8000'" in docker_run_line(plan(replace(SPEC, host_ip="::1")))
    assert " -p " not in docker_run_line(plan(replace(SPEC, host_port=None)))


def test_on_the_hosts_network_vllm_itself_listens_on_the_port_of_the_host():
    launch = plan(replace(SPEC, network="host", host_port=9001))
    assert launch.host_port is None
    assert launch.container_port == 9001
    assert " ".join(launch.command).startswith("Qwen/Qwen3-0.6B --host 127.0.0.1 --port 9001")


def test_the_hosts_ipc_comes_without_a_size_of_its_own():
    assert plan(replace(SPEC, ipc_host=True, shm_bytes=2**30)).shm_bytes is None
    assert plan(replace(SPEC, shm_bytes=2**30)).shm_bytes == 2**30


def test_another_command_replaces_vllms_whole():
    assert plan(replace(SPEC, command=("simulate",), max_model_len=5)).command == ("simulate",)


@pytest.mark.parametrize(
    ("said", "request_"),
    [
        ("all", GpuRequest(count=-1)),
        ("0", None),
        (0, None),
        (2, GpuRequest(count=2)),
        ("2", GpuRequest(count=2)),
        ("0,1", GpuRequest(device_ids=("0", "1"))),
        ("device=1", GpuRequest(device_ids=("1",))),
        ("GPU-3f2a, GPU-77", GpuRequest(device_ids=("GPU-3f2a", "GPU-77"))),
    ],
)
def test_gpus_are_all_or_a_count_or_ids(said: str | int, request_: GpuRequest | None):
    assert parse_gpus(said) == request_


@pytest.mark.parametrize("said", ["", "-1", "0,", "device=", 'all"', "two gpus", "²"])
def test_what_names_no_gpus_is_refused(said: str):
    with pytest.raises(ValueError, match="names no GPUs"):
        parse_gpus(said)


def snapshot(**labels: str) -> ContainerSnapshot:
    return ContainerSnapshot(
        id="c1",
        name="vllm-local",
        image=DEFAULT_IMAGE,
        image_id="sha256:1",
        status=ContainerStatus.RUNNING,
        exit_code=None,
        oom_killed=False,
        error="",
        started_time=1.0,
        finished_time=None,
        labels=labels,
    )


def test_drift_is_told_by_the_hash_on_the_container():
    launch = plan(SPEC)
    same = snapshot(**{CONFIG_HASH_LABEL: launch.labels[CONFIG_HASH_LABEL]})
    assert has_drifted(same, launch) is False
    assert has_drifted(same, plan(replace(SPEC, block_size=32))) is True


@pytest.mark.parametrize("labels", [{}, {CONFIG_HASH_LABEL: "v0-abc"}])
def test_drift_is_unknown_without_a_hash_of_this_recipe(labels):
    assert has_drifted(snapshot(**labels), plan(SPEC)) is None


API_SERVER = ("python3", "-m", "vllm.entrypoints.openai.api_server")


@pytest.mark.parametrize(
    ("entrypoint", "old", "begins"),
    [
        (("vllm", "serve"), False, ("org/model",)),
        (("vllm", "serve"), True, ("org/model",)),
        (API_SERVER, False, ("--model", "org/model")),
        (API_SERVER, True, ("--model", "org/model")),
        (("/usr/bin/tini", "--", *API_SERVER), False, ("--model", "org/model")),
        (("/entrypoint.sh",), False, ("org/model",)),
        (("/entrypoint.sh",), True, ("--model", "org/model")),
        (None, False, ("org/model",)),
        (None, True, ("--model", "org/model")),
        ((), False, ("vllm", "serve", "org/model")),
    ],
)
def test_an_image_is_given_the_model_in_the_way_that_its_entrypoint_takes(entrypoint, old, begins):
    launch = plan(LaunchSpec(target="t", name="n", model="org/model", max_model_len=5))
    fitting = for_image(launch, entrypoint, old=old)
    assert fitting.command[: len(begins)] == begins
    assert fitting.command[-3:] == launch.command[-3:]
    assert fitting.labels == launch.labels, "it is no drift"


@pytest.mark.parametrize(
    ("asked", "loaded", "another"),
    [
        ("org/model", "org/model", False),
        ("org/model", "Qwen/Qwen3-0.6B", True),
        ("/models/tiny", "/models/tiny/", False),
        ("/models/tiny", "Qwen/Qwen3-0.6B", True),
        ("/models/tiny", "/models/other", True),
        ("org/model", "/root/.cache/huggingface/hub/models--org--model/snapshots/1", False),
    ],
)
def test_another_model_is_one_that_cannot_be_the_one_that_was_asked_for(asked, loaded, another):
    assert is_another_model(asked, loaded) is another


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
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "launch", "--print", "--config", str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert words in done.stdout
