"""Which source wins, and how tables, lists and secrets of several sources are merged."""

from __future__ import annotations

from itertools import pairwise

import pytest

from exporter.config import load

VARIABLE = "VLLM_EXPORTER_PROBE__MAX_TOKENS"
MANAGED = '[[targets]]\nmode = "managed"\n[targets.container]\nmodel = "m"\n'
HF_KEY = "VLLM_EXPORTER_TARGETS__0__CONTAINER__HF_TOKEN"

# In order of rising priority: how each source sets probe.max_tokens, and the source's name.
SOURCES = {
    "default": lambda _: {},
    "exporter.toml": lambda value: {"toml": f"[probe]\nmax_tokens = {value}"},
    f".env, variable {VARIABLE}": lambda value: {"dotenv": f"{VARIABLE}={value}"},
    f"environment variable {VARIABLE}": lambda value: {"env": {VARIABLE: str(value)}},
    f"secrets file secrets/{VARIABLE.lower()}": lambda value: {
        "secrets": {VARIABLE.lower(): f"{value}\n"}
    },
    "command line, --probe.max_tokens": lambda value: {"cli": {"probe.max_tokens": str(value)}},
}
# The same for the token of a container, where each source has a plain and a prefixed variable.
TOKEN_SOURCES = {
    ".env, variable HF_TOKEN": lambda value: {"dotenv": {"HF_TOKEN": value}},
    f".env, variable {HF_KEY}": lambda value: {"dotenv": {HF_KEY: value}},
    "environment variable HF_TOKEN": lambda value: {"env": {"HF_TOKEN": value}},
    f"environment variable {HF_KEY}": lambda value: {"env": {HF_KEY: value}},
    "secrets file secrets/hf_token": lambda value: {"secrets": {"hf_token": value}},
    f"secrets file secrets/{HF_KEY}": lambda value: {"secrets": {HF_KEY: value}},
    "command line, --set targets[0].container.hf_token": lambda value: {
        "cli": {"targets[0].container.hf_token": value}
    },
}


@pytest.mark.parametrize(("weak", "strong"), list(pairwise(SOURCES)))
def test_the_source_with_the_higher_priority_wins(load_text, tmp_path, weak, strong):
    loaded = load_text(**SOURCES[weak](101), **SOURCES[strong](102))
    assert loaded.settings.probe.max_tokens == 102
    assert _place(loaded, "probe.max_tokens", tmp_path) == strong


@pytest.mark.parametrize(("weak", "strong"), list(pairwise(TOKEN_SOURCES)))
def test_a_prefixed_variable_wins_over_a_plain_one_of_the_same_source(
    load_text, tmp_path, weak, strong
):
    given: dict = {}
    for source, value in ((weak, "weak"), (strong, "strong")):
        for kind, pairs in TOKEN_SOURCES[source](value).items():
            given.setdefault(kind, {}).update(pairs)
    if "dotenv" in given:
        given["dotenv"] = "\n".join(f"{name}={value}" for name, value in given["dotenv"].items())
    loaded = load_text(MANAGED, **given)
    token = loaded.settings.targets[0].container.hf_token
    assert token.get_secret_value() == "strong"
    assert _place(loaded, "targets[0].container.hf_token", tmp_path) == strong


def _place(loaded, key, tmp_path) -> str:
    return loaded.sources.get(key, "default").replace(f"{tmp_path}/", "")


def test_sources_with_different_keys_of_a_section_are_merged(load_text):
    loaded = load_text(
        "[probe]\nmax_tokens = 5\ninterval_seconds = 30",
        env={"VLLM_EXPORTER_PROBE": '{"jitter_ratio": 0.5, "max_tokens": 6}'},
        cli={"probe.turn_label_limit": "7"},
    )
    probe = loaded.settings.probe
    assert (probe.max_tokens, probe.interval_seconds) == (6, 30)
    assert (probe.jitter_ratio, probe.turn_label_limit) == (0.5, 7)


def test_an_index_changes_one_target_and_the_next_one_adds_another(load_text):
    loaded = load_text(
        '[[targets]]\nname = "a"\nurl = "http://a:8000"\n[[targets]]\nname = "b"\nurl = "http://b"',
        env={
            "VLLM_EXPORTER_TARGETS__2__URL": "http://c:1",
            "VLLM_EXPORTER_TARGETS__2__NAME": "c",
            "VLLM_EXPORTER_TARGETS__0__URL": "http://z:8000",
        },
    )
    assert [(t.name, t.url) for t in loaded.settings.targets] == [
        ("a", "http://z:8000"),
        ("b", "http://b"),
        ("c", "http://c:1"),
    ]
    assert loaded.sources["targets[0].url"] == "environment variable VLLM_EXPORTER_TARGETS__0__URL"


def test_a_whole_list_replaces_one_of_lower_priority(load_text):
    loaded = load_text(
        '[[targets]]\nname = "a"\nurl = "http://a:8000"\nmodel = "m"\n',
        cli={"targets": '[{"url": "http://b:8000"}]'},
    )
    (target,) = loaded.settings.targets
    assert (target.name, target.url, target.model) == ("vllm", "http://b:8000", None)
    assert "targets[0].model" not in loaded.sources


def test_within_one_source_an_index_wins_over_the_whole_list(load_text):
    loaded = load_text(
        env={
            "VLLM_EXPORTER_TARGETS__0__MODEL": "m",
            "VLLM_EXPORTER_TARGETS": '[{"url": "http://b:8000", "model": "n"}]',
        }
    )
    assert loaded.settings.targets[0].model == "m"


def test_lists_and_tables_in_a_variable_are_json_and_names_in_a_table_keep_their_case(load_text):
    at = "VLLM_EXPORTER_TARGETS__0__CONTAINER__"
    loaded = load_text(
        MANAGED + 'environment = { First = "1" }\n',
        env={
            f"{at}ARGS": '["--max-num-seqs", "4"]',
            f"{at}GPUS": '["0", "1"]',
            f"{at}ENVIRONMENT__Second": "2",
        },
    )
    container = loaded.settings.targets[0].container
    assert container.args == ("--max-num-seqs", "4")
    assert container.gpus == ("0", "1")
    assert container.environment == {"First": "1", "Second": "2"}


def test_an_empty_variable_counts_as_not_set(load_text):
    loaded = load_text(env={VARIABLE: "", "VLLM_HOST": " "}, dotenv=f"{VARIABLE}=9\n")
    assert loaded.settings.probe.max_tokens == 9
    assert loaded.settings.targets == ()


def test_a_secret_of_higher_priority_replaces_a_secret_file(load_text, tmp_path):
    (tmp_path / "old").write_text("old", encoding="utf-8")
    loaded = load_text(
        '[[targets]]\nurl = "http://e"\napi_key_file = "old"\n',
        env={"VLLM_EXPORTER_TARGETS__0__API_KEY": "new"},
    )
    (target,) = loaded.settings.targets
    assert target.api_key.get_secret_value() == "new"
    assert target.api_key_file is None


def test_a_secret_file_of_higher_priority_replaces_a_secret(load_text, tmp_path):
    (tmp_path / "key").write_text("\n new \n", encoding="utf-8")
    loaded = load_text(
        '[[targets]]\nurl = "http://e"\napi_key = "old"\n',
        env={"VLLM_EXPORTER_TARGETS__0__API_KEY_FILE": str(tmp_path / "key")},
    )
    assert loaded.settings.targets[0].api_key.get_secret_value() == "new"


def test_a_relative_path_in_a_file_is_relative_to_that_file(load_text, tmp_path, monkeypatch):
    (tmp_path / "key").write_text("sk", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    loaded = load_text('[[targets]]\nurl = "http://e"\napi_key_file = "key"\n')
    assert loaded.settings.targets[0].api_key_file == tmp_path / "key"


def test_the_environment_can_name_the_file_and_the_secrets_directory(tmp_path):
    (tmp_path / "c.toml").write_text("[probe]\nmax_tokens = 5\n", encoding="utf-8")
    secrets = tmp_path / "s"
    secrets.mkdir()
    (secrets / "vllm_exporter_listen").write_text("127.0.0.1:1\n", encoding="utf-8")
    (secrets / "somebody_elses").write_bytes(b"\xff")
    environ = {
        "VLLM_EXPORTER_CONFIG": str(tmp_path / "c.toml"),
        "VLLM_EXPORTER_SECRETS_DIR": str(secrets),
    }
    loaded = load(environ=environ, dotenv=None)
    assert loaded.settings.probe.max_tokens == 5
    assert str(loaded.settings.listen) == "127.0.0.1:1"


def test_without_sources_all_settings_have_defaults(load_text):
    loaded = load_text()
    assert str(loaded.settings.listen) == "127.0.0.1:9477"
    assert loaded.settings.probe.interval_seconds == 60
    assert loaded.settings.targets == ()
    assert loaded.sources == {}
