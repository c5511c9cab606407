"""Which flags a container's args may contain, by version of vLLM."""

from __future__ import annotations

import pytest

from exporter.config.schema.vllm_flags import flag_mistakes, version_of

NEW = "vllm/vllm-openai:v0.32.0"


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.32.0", (0, 32)),
        ("vllm/vllm-openai:v0.17.1-cu129", (0, 17)),
        ("registry:5000/mirror/vllm:0.9.2", (0, 9)),
        ("vllm/vllm-openai:v0.32.0@sha256:12ab", (0, 32)),
        ("vllm/vllm-openai:v1.0", (1, 0)),
        ("registry:5000/vllm", None),
        ("vllm/vllm-openai:nightly", None),
        ("vllm/vllm-openai@sha256:12ab", None),
        ("vllm/vllm-openai:v0", None),
    ],
)
def test_the_version_is_read_from_the_tag_if_it_has_one(image, version):
    assert version_of(image) == version


@pytest.mark.parametrize(
    ("image", "refused"),
    [
        ("vllm/vllm-openai:v0.9.2", False),
        ("vllm/vllm-openai:v0.15.1", False),
        ("vllm/vllm-openai:v0.16.0", False),
        ("vllm/vllm-openai:v0.17.0", True),
        ("vllm/vllm-openai:v0.32.0-cu129", True),
        ("vllm/vllm-openai:v1.0.0", True),
        ("vllm/vllm-openai:nightly", False),
        (None, False),
    ],
)
def test_disable_log_requests_is_refused_for_versions_that_do_not_know_it(image, refused):
    found = flag_mistakes(["--disable-log-requests"], image, {})
    assert bool(found) is refused
    if refused:
        assert "--no-enable-log-requests" in found[0][1]


@pytest.mark.parametrize("image", ["vllm/vllm-openai:v0.8.5", NEW, "vllm:nightly", None])
def test_enable_metrics_is_refused_for_every_version(image):
    assert flag_mistakes(["--enable-metrics"], image, {}) == [
        (0, "is not a flag of vLLM, which always serves /metrics: leave it out")
    ]


@pytest.mark.parametrize(
    "flag", ["--port", "--port=1", "--host", "--model=x", "--api_key", "--uds"]
)
def test_a_flag_that_the_exporter_sets_is_refused_in_any_spelling(flag):
    assert [place for place, _ in flag_mistakes(["--max-num-seqs", "4", flag], NEW, {})] == [2]


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("--max-model-len", "max_model_len"),
        ("--max_model_len=1", "max_model_len"),
        ("--gpu-memory-utilization", "gpu_memory_utilization"),
        ("--block-size", "block_size"),
        ("--no-enable-prefix-caching", "prefix_caching"),
    ],
)
def test_a_flag_is_refused_only_together_with_its_key(flag, key):
    assert flag_mistakes([flag], NEW, {key: None}) == []
    for value in (1, False):
        ((_, message),) = flag_mistakes([flag], NEW, {key: value})
        assert message == f"contradicts the key {key}, which is also set: keep one of them"


def test_all_other_flags_are_accepted():
    args = ["--enable-prompt-tokens-details", "--no-enable-log-requests", "-O3", "--seed", "-1"]
    assert flag_mistakes([*args, "--kv-transfer-config", '{"a b": 1}', "--x={a b}"], NEW, {}) == []
