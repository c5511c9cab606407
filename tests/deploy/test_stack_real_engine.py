"""The stack with a real vLLM on a CPU, and with a vLLM that another compose file starts."""

from __future__ import annotations

import json
import os
import secrets

import pytest
from deploy_stack import Stack, run

pytestmark = pytest.mark.docker

VLLM_IMAGE = os.environ.get("TEST_VLLM_IMAGE", "vllm/vllm-openai:v0.32.0")
MODEL = os.environ.get("TEST_VLLM_IMAGE_MODEL", "/models/tiny")
LOADING_SECONDS = 400.0  # a real engine on a busy CPU


# A group of their own: these stacks come up beside the one of test_stack.py.
def started(container: str) -> str:
    return run("docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", container)


@pytest.mark.xdist_group("stacks of other engines")
@pytest.mark.vllm_image
def test_gpu_env_without_gpus_brings_the_turns_of_a_real_engine_to_prometheus(
    image, stack_images, have_image, free_ports
):
    have_image(VLLM_IMAGE)
    stack = Stack(
        image,
        free_ports(5),
        "--env-file",
        "deploy/gpu.env",
        ENGINE_IMAGE=VLLM_IMAGE,
        ENGINE_GPUS="0",
        ENGINE_HF_CACHE="none",
        ENGINE_COMPILE_CACHE="none",
        ENGINE_ARGS=json.dumps(["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"]),
        MODEL_ID=MODEL,
        MAX_MODEL_LEN="8192",
    )
    try:
        stack.up()
        hits = 'vllm_probe_turn_hit_ratio{turn="2"}'
        assert stack.until("a turn hits", lambda: stack.value(hits), LOADING_SECONDS) > 0.4
        info = 'vllm_engine_info{version!="",simulated="false"}'
        assert stack.value(info) == 1
        # What Prometheus reads of the engine itself and what the exporter makes of it agree.
        saved = stack.until(
            "the engine's own counter is scraped",
            lambda: stack.value("sum by (target) (vllm:prefix_cache_hits_total)"),
        )
        assert saved > 0
        began = started(stack.container)
        stack.compose("up", "-d", "--no-build", "--wait", "--force-recreate", "exporter")
        stack.until("the exporter is back", lambda: stack.value("vllm_probe_up") == 1)
        assert started(stack.container) == began, "the engine is not touched with the exporter"
        # As docs/compose.md says.
        stack.compose("stop", "exporter")
        run("docker", "rm", "-f", stack.container)
        stack.compose("down", "-v")
        assert stack.left_behind() == []
    finally:
        stack.remove()


@pytest.mark.xdist_group("stacks of other engines")
def test_attached_env_watches_a_service_of_another_compose_file(
    image, stack_images, free_ports, tmp_path
):
    project = f"vce-test-{secrets.token_hex(4)}"
    theirs = tmp_path / "compose.yaml"
    theirs.write_text(
        f"name: {project}\n"
        f"services: {{vllm: {{image: '{image}', command: [simulate, --host, 0.0.0.0]}}}}\n"
    )
    stack = Stack(
        image,
        free_ports(5),
        "--env-file",
        "deploy/attached.env",
        ENGINE_NETWORK=f"{project}_default",
        ENGINE_LABEL=f"com.docker.compose.project={project}",
    )
    try:
        run("docker", "compose", "-f", str(theirs), "up", "-d", "--wait")
        stack.up()
        stack.until("a session is through", lambda: stack.value("vllm_probe_up") == 1)
        assert stack.value('vllm_container_info{mode="attached"}') == 1
        assert stack.value('vllm_container_state{state="ready"}') == 1
        tokens = "sum by (target) (vllm:prompt_tokens_total)"
        stack.until("their engine is scraped", lambda: (stack.value(tokens) or 0) > 0)
        stack.compose("down", "-v")
        assert stack.left_behind() == []
        label = f"label=com.docker.compose.project={project}"
        assert run("docker", "ps", "-q", "--filter", label), "their engine runs on"
    finally:
        stack.remove()
        run("docker", "compose", "-f", str(theirs), "down", "-v")
