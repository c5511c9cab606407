"""The plain variables that are often set for vLLM already."""

from __future__ import annotations

import pytest

MANAGED = '[[targets]]\nmode = "managed"\n[targets.container]\nmodel = "m"\n'
ATTACHED = (
    '[[targets]]\nmode = "attached"\nurl = "http://v:1"\n[targets.container]\nname = "vllm"\n'
)


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"VLLM_HOST": "gpu1"}, "http://gpu1:8000"),
        ({"VLLM_HOST": "gpu1", "PORT": "9000"}, "http://gpu1:9000"),
        ({"VLLM_HOST": "gpu1:7000", "PORT": "9000"}, "http://gpu1:7000"),
        ({"VLLM_HOST": "https://gpu1/"}, "https://gpu1"),
        ({"VLLM_HOST": "gpu1/v1"}, "http://gpu1:8000"),
        ({"VLLM_HOST": "gpu1:7000/llm/v1"}, "http://gpu1:7000/llm"),
        ({"VLLM_HOST": "10.0.0.1"}, "http://10.0.0.1:8000"),
        ({"VLLM_HOST": "fd00::1"}, "http://[fd00::1]:8000"),
        ({"VLLM_HOST": "[fd00::1]:7000"}, "http://[fd00::1]:7000"),
        ({"MODEL_ID": "m"}, "http://127.0.0.1:8000"),
        ({"MODEL_ID": "m", "PORT": "9000"}, "http://127.0.0.1:9000"),
    ],
)
def test_without_a_target_plain_variables_create_an_external_one(load_text, variables, url):
    (target,) = load_text(env=variables).settings.targets
    assert (target.name, target.mode, target.url) == ("vllm", "external", url)
    assert target.model == variables.get("MODEL_ID")


def test_plain_variables_fill_the_container_of_a_managed_target(load_text):
    loaded = load_text(
        MANAGED + "host_port = 8000\nmax_model_len = 1024\n",
        env={
            "MODEL_ID": "org/model",
            "HF_TOKEN": "hf_1",
            "GPU_MEM_UTIL": "0.8",
            "MAX_MODEL_LEN": "4096",
            "PORT": "9000",
        },
    )
    (target,) = loaded.settings.targets
    container = target.container
    assert (container.model, container.gpu_memory_utilization) == ("org/model", 0.8)
    assert (container.max_model_len, container.host_port) == (4096, 9000)
    assert container.hf_token.get_secret_value() == "hf_1"
    assert target.base_url == "http://127.0.0.1:9000"
    assert loaded.sources["targets[0].container.model"] == "environment variable MODEL_ID"


def test_a_target_needs_only_a_mode_with_plain_variables(load_text):
    env = {"VLLM_EXPORTER_TARGETS__0__MODE": "managed", "MODEL_ID": "org/model"}
    (target,) = load_text(env=env).settings.targets
    assert (target.container.model, target.base_url) == ("org/model", "http://127.0.0.1:8000")


def test_vllm_host_sets_the_url_of_a_managed_target(load_text):
    (target,) = load_text(MANAGED, env={"VLLM_HOST": "vllm"}).settings.targets
    assert (target.mode, target.base_url) == ("managed", "http://vllm:8000")


def test_a_prefixed_variable_or_the_command_line_wins_over_plain_variables(load_text):
    loaded = load_text(
        env={"VLLM_HOST": "weak", "VLLM_EXPORTER_TARGETS": '[{"url": "http://strong"}]'}
    )
    assert loaded.settings.targets[0].url == "http://strong"
    loaded = load_text(env={"VLLM_HOST": "weak"}, cli={"targets[0].url": "http://strong"})
    assert loaded.settings.targets[0].url == "http://strong"


def test_plain_variables_fill_settings_that_other_sources_leave_unset(load_text):
    loaded = load_text(
        env={
            "HF_TOKEN": "hf_1",
            "VLLM_EXPORTER_TARGETS": '[{"mode": "managed", "container": {"model": "m"}}]',
        }
    )
    assert loaded.settings.targets[0].container.hf_token.get_secret_value() == "hf_1"


def test_a_token_file_is_read(load_text, tmp_path):
    (tmp_path / "token").write_text("hf_2\n", encoding="utf-8")
    loaded = load_text(MANAGED, env={"HF_TOKEN_FILE": str(tmp_path / "token")})
    assert loaded.settings.targets[0].container.hf_token.get_secret_value() == "hf_2"


def test_a_token_file_of_higher_priority_wins_over_a_plain_token(load_text, tmp_path):
    (tmp_path / "token").write_text("hf_file\n", encoding="utf-8")
    loaded = load_text(
        MANAGED,
        dotenv="HF_TOKEN=hf_plain",
        env={"HF_TOKEN_FILE": str(tmp_path / "token")},
    )
    assert loaded.settings.targets[0].container.hf_token.get_secret_value() == "hf_file"


def test_port_does_not_change_a_set_url(load_text):
    loaded = load_text('[[targets]]\nurl = "http://e:1"\n', env={"PORT": "3000"})
    assert loaded.settings.targets[0].url == "http://e:1"
    assert loaded.ignored == ("environment variable PORT has no effect: url contains a port",)


def test_with_several_targets_plain_variables_are_ignored_with_a_message(load_text):
    loaded = load_text(
        '[[targets]]\nname = "a"\nurl = "http://a"\n[[targets]]\nname = "b"\nurl = "http://b"\n',
        env={"VLLM_HOST": "c"},
    )
    assert [t.url for t in loaded.settings.targets] == ["http://a", "http://b"]
    assert loaded.ignored == (
        "environment variable VLLM_HOST has no effect: it can set only one target, and there are 2",
    )


def test_container_variables_without_a_container_are_ignored_with_a_message(load_text):
    for toml in ('[[targets]]\nurl = "http://e"\n', ATTACHED):
        loaded = load_text(toml, env={"HF_TOKEN": "hf_1", "GPU_MEM_UTIL": "0.5"})
        assert loaded.ignored == (
            'environment variable HF_TOKEN has no effect: it applies only to mode "managed"',
            ('environment variable GPU_MEM_UTIL has no effect: it applies only to mode "managed"'),
        )


def test_port_alone_creates_no_target(load_text):
    loaded = load_text(env={"PORT": "3000"})
    assert loaded.settings.targets == ()
    assert loaded.ignored == ("environment variable PORT has no effect: there is no target",)


def test_with_discovery_only_vllm_host_creates_a_target(load_text):
    found = '[[discovery.dns]]\nname = "vllm"\nhost = "vllm.models.svc"\n'
    loaded = load_text(found, env={"MODEL_ID": "m"})
    assert loaded.settings.targets == ()
    assert loaded.ignored == (
        (
            "environment variable MODEL_ID has no effect: "
            "it can set only one target, and discovery finds many"
        ),
    )
    loaded = load_text(found, env={"MODEL_ID": "m", "VLLM_HOST": "gpu1"})
    assert [(each.url, each.model) for each in loaded.settings.targets] == [
        ("http://gpu1:8000", "m")
    ]
    assert loaded.ignored == ()


def test_discovery_settings_without_sources_do_not_affect_plain_variables(load_text):
    loaded = load_text("[discovery]\nmax_targets = 5\n", env={"MODEL_ID": "m"})
    assert [each.model for each in loaded.settings.targets] == ["m"]
