"""The hash of a launch, the command that an image accepts, and the equal `docker run` line."""

from __future__ import annotations

import csv
import shlex
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.container.decide.launch import (
    config_hash,
    docker_run_line,
    for_image,
    has_drifted,
    is_another_model,
    with_hash,
)
from exporter.container.decide.records import (
    CONFIG_HASH_LABEL,
    ContainerSnapshot,
    ContainerStatus,
    GpuRequest,
    Launch,
    Mount,
)

LAUNCH = Launch(
    name="vllm-local",
    image="vllm/vllm-openai:v0.32.0",
    command=("org/model", "--max-model-len", "5"),
    environment={"A": "1"},
    secret_environment=(),
    labels={},
    mounts=(),
    gpus=GpuRequest(count=-1),
    ipc_host=False,
    shm_bytes=None,
    network=None,
    host_ip="127.0.0.1",
    host_port=8000,
)

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
launches = st.builds(
    Launch,
    name=names,
    image=st.just(LAUNCH.image),
    command=st.lists(words, max_size=4).map(tuple),
    environment=st.dictionaries(names, words, max_size=3),
    secret_environment=st.lists(names, max_size=2).map(tuple),
    labels=st.dictionaries(names, words, max_size=3),
    mounts=st.lists(st.builds(Mount, paths, paths, st.booleans()), max_size=2).map(tuple),
    gpus=gpu_requests,
    ipc_host=st.booleans(),
    shm_bytes=st.none() | st.integers(1, 10**10),
    network=st.none() | st.sampled_from(["bridge", "host", "vllm"]),
    host_ip=st.sampled_from(["127.0.0.1", "192.0.2.7", "::1"]),
    host_port=st.none() | st.integers(1, 65535),
    container_port=st.sampled_from([8000, 9000]),
    memory_bytes=st.none() | st.integers(1, 10**10),
    secret_files=st.dictionaries(names, paths, max_size=2),
).map(with_hash)


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


@given(launches)
def test_a_shell_reads_back_every_word_of_the_run_line(launch: Launch):
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


@given(launches)
def test_the_run_line_mounts_what_the_launch_mounts(launch: Launch):
    options, _ = parse_run_line(docker_run_line(launch))
    mounted = []
    for text in options.get("--mount", []):
        cells = the_cells(text)
        pairs = dict(cell.split("=", 1) for cell in cells if cell != "readonly")
        assert pairs["type"] == ("bind" if pairs["source"].startswith("/") else "volume")
        mounted.append(Mount(pairs["source"], pairs["target"], "readonly" in cells))
    assert tuple(mounted) == launch.mounts


@given(launches)
def test_the_run_line_asks_for_the_same_gpus(launch: Launch):
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


@given(launches)
def test_the_hash_does_not_depend_on_the_order_of_maps_and_mounts(launch: Launch):
    turned = replace(
        launch,
        environment=dict(reversed(list(launch.environment.items()))),
        labels=dict(reversed(list(launch.labels.items()))),
        mounts=tuple(reversed(launch.mounts)),
        secret_environment=tuple(reversed(launch.secret_environment)),
    )
    assert config_hash(turned) == config_hash(launch)


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
    changed = replace(LAUNCH, **{name: OTHER_VALUES[name]})
    assert config_hash(changed) != config_hash(LAUNCH)


def test_the_hash_does_not_cover_itself():
    launch = with_hash(LAUNCH)
    assert config_hash(launch) == launch.labels[CONFIG_HASH_LABEL]


def snapshot(**labels: str) -> ContainerSnapshot:
    return ContainerSnapshot(
        id="c1",
        name="vllm-local",
        image=LAUNCH.image,
        image_id="sha256:1",
        status=ContainerStatus.RUNNING,
        exit_code=None,
        oom_killed=False,
        error="",
        started_time=1.0,
        finished_time=None,
        labels=labels,
    )


def test_drift_follows_from_the_hash_on_the_container():
    launch = with_hash(LAUNCH)
    same = snapshot(**{CONFIG_HASH_LABEL: launch.labels[CONFIG_HASH_LABEL]})
    assert has_drifted(same, launch) is False
    assert has_drifted(same, with_hash(replace(LAUNCH, host_port=1))) is True


@pytest.mark.parametrize("labels", [{}, {CONFIG_HASH_LABEL: "v0-abc"}])
def test_drift_is_unknown_without_a_hash_of_this_recipe(labels):
    assert has_drifted(snapshot(**labels), with_hash(LAUNCH)) is None


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
    launch = with_hash(LAUNCH)
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
