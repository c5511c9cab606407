"""The secrets that a container is given: seen where they must be, and nowhere else.

The container prints all of them and fails, which is the worst that one can do.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress

import docker.errors
import pytest
from supervised_daemon import free_port, supervised

pytestmark = pytest.mark.docker

TOKEN, KEY, VARIABLE = "canaryHuggingFaceToken", "canaryKeyOfTheEngine", "canarySecretVariable"
PAGES = ("/", "/metrics", "/api/v1/targets", "/api/v1/sessions", "/-/ready")
TELL_ALL = """
import os, sys
token = open(os.environ["HF_TOKEN_PATH"]).read()
for out in (sys.stdout, sys.stderr):
    print("OSError: gated repo, token", token, os.environ["VLLM_API_KEY"], file=out)
    print("OSError: bucket", os.environ["AWS_KEY"], "refused", file=out, flush=True)
sys.exit(1)
"""


@pytest.fixture
def name(docker_api):
    name = f"vce-test-{secrets.token_hex(6)}"
    yield name
    with suppress(docker.errors.NotFound):
        docker_api.remove_container(name, force=True, v=True)


@pytest.fixture
def config(tmp_path, name, docker_host, python_image):
    file = tmp_path / "exporter.toml"
    file.write_text(f"""
        [[targets]]
        name = "{name}"
        mode = "managed"
        api_key = "{KEY}"
        [targets.container]
        name = "{name}"
        docker_host = "{docker_host}"
        image = "{python_image}"
        command = {json.dumps(["python3", "-c", TELL_ALL.strip()])}
        gpus = 0
        host_port = {free_port()}
        shm_size = "64m"
        hf_cache = "none"
        vllm_cache = "none"
        hf_token = "{TOKEN}"
        secret_environment = {{ AWS_KEY = "{VARIABLE}" }}
    """)
    return file


async def test_secrets_that_a_container_logs_stay_in_its_own_log(config, docker_api, name):
    async with supervised(config) as daemon:
        await daemon.until("its end is explained", lambda page: page.cause is not None)
        await daemon.until("its lines are read", lambda _: "gated repo" in daemon.log.read_text())
        pages = [((await daemon.get(path)) or b"").decode() for path in PAGES]
        await daemon.stop()
    said = "\n".join([*pages, daemon.log.read_text()])
    assert [each for each in (TOKEN, KEY, VARIABLE) if each in said] == []
    seen = docker_api.inspect_container(name)
    in_variables = {"VLLM_API_KEY": KEY, "AWS_KEY": VARIABLE}  # what docs/security.md says of them
    variables = dict(each.split("=", 1) for each in seen["Config"].pop("Env"))
    assert {each: variables[each] for each in in_variables} == in_variables
    assert TOKEN not in variables.values()
    rest = json.dumps(seen)
    assert [each for each in (TOKEN, KEY, VARIABLE) if each in rest] == []
