"""The output of `config`: values in force and their sources, usable as a file."""

from __future__ import annotations

import json
import tempfile
import tomllib
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from exporter.config import describe, describe_json, load

SECRETS = ("api_key", "hf_token", "secret_environment")
EMPTY = Path(tempfile.gettempdir()) / "no such .env"

# TOML and JSON differ in a few characters; an environment can contain all of them.
any_text = st.text(st.characters(exclude_categories=["Cs"]))
words = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{1,12}", fullmatch=True)
model_names = any_text.map(str.strip).filter(lambda text: text and not text.startswith("-"))
seconds = st.floats(1, 1e6)
ports = st.integers(1, 65535)


def optional(**fields):
    return st.fixed_dictionaries({}, optional=fields)


backoffs = optional(
    initial_seconds=st.floats(0.001, 300), factor=st.floats(1, 1e9), jitter_ratio=st.floats(0, 1)
)
looking_after = {
    "docker_host": st.sampled_from(["unix:///run/d.sock", "tcp://proxy:2375"]),
    "start_deadline_seconds": seconds,
    "quiet_deadline_seconds": seconds,
    "paused_deadline_seconds": seconds,
    "health_failures": st.integers(1, 9),
    "restart": st.sampled_from(["auto", "always", "never"]),
    "backoff": backoffs,
}
launches = {
    "image": st.sampled_from(["a/b:1", "r:5000/a:v0.32.0-cu129", "a@sha256:0123abcd"]),
    "served_model_name": model_names,
    "gpus": st.just("all") | st.integers(0, 8) | st.lists(words, min_size=1, unique=True),
    "gpu_memory_utilization": st.floats(0.01, 1),
    "prefix_caching": st.booleans(),
    "args": st.lists(words.map(lambda word: f"--x-{word}")),
    "host_ip": st.sampled_from(["127.0.0.1", "::", "::1"]),
    "host_port": ports,
    "ipc_host": st.booleans(),
    "shm_size": st.integers(1, 1 << 50) | st.sampled_from(["8g", "512m", "1 GiB"]),
    "hf_token": words,
    "hf_cache": st.sampled_from(["none", "/cache", "volume"]),
    "mounts": st.lists(st.sampled_from(["/a:/b:ro", "v-1:/c"])),
    "environment": st.dictionaries(words.map("X_{}_1".format), any_text),
    "secret_environment": st.dictionaries(words, words, max_size=2),
    "on_drift": st.sampled_from(["report", "recreate"]),
}
external = st.fixed_dictionaries(
    {"url": st.sampled_from(["http://h:8000/", "https://[::1]/path"])},
    optional={
        "model": model_names,
        "api_key": words,
        "headers": st.dictionaries(words.map("X-{}".format), words, max_size=2),
        "extra_body": st.dictionaries(
            words.map("x_{}".format),
            st.recursive(
                st.booleans()
                | st.integers(-(2**40), 2**40)
                | st.floats(allow_nan=False, allow_infinity=False)
                | any_text.map(lambda text: text.replace("{", "{{").replace("}", "}}")),
                lambda inner: (
                    st.lists(inner, max_size=2) | st.dictionaries(any_text, inner, max_size=2)
                ),
                max_leaves=4,
            ),
            max_size=2,
        ),
        "verify_tls": st.booleans(),
        "currency": st.just("EUR"),
        "watts": seconds,
    },
)
managed = st.fixed_dictionaries(
    {
        "mode": st.just("managed"),
        "container": st.fixed_dictionaries(
            {"model": model_names}, optional={**launches, **looking_after}
        ),
    }
)
commanded = st.fixed_dictionaries(
    {
        "mode": st.just("managed"),
        "container": st.fixed_dictionaries(
            {"command": st.lists(words, min_size=1)}, optional=looking_after
        ),
    }
)
attached = st.fixed_dictionaries(
    {
        "mode": st.just("attached"),
        "url": st.just("http://v"),
        "container": st.fixed_dictionaries({"label": st.just("a=b")}, optional=looking_after),
    }
)
targets = st.lists(st.one_of(external, managed, commanded, attached), max_size=4).map(
    lambda listed: [{**target, "name": f"t{place}"} for place, target in enumerate(listed)]
)
configurations = st.fixed_dictionaries(
    {"targets": targets},
    optional={
        "listen": st.sampled_from(["0.0.0.0:0", "[::1]:9477", "host.example:1"]),
        "probe": optional(
            interval_seconds=seconds,
            max_tokens=st.integers(1, 4096),
            control_ratio=st.floats(0, 1),
            retention_gaps_seconds=st.lists(seconds, max_size=5, unique=True),
        ),
        "log": optional(format=st.sampled_from(["json", "console"])),
    },
)


def _load_values(values: dict):
    cli = {key: each if key == "listen" else json.dumps(each) for key, each in values.items()}
    return load(cli=cli, environ={}, dotenv=None, secrets_dir=Path(__file__).parent)


def _without_secrets(loaded) -> dict:
    plain = loaded.settings.model_dump(mode="json")
    for target in plain["targets"]:
        for section in (target, target["container"] or {}):
            for key in (*SECRETS, "headers"):
                section.pop(key, None)
    return plain


@settings(deadline=None, max_examples=200)
@given(configurations)
def test_the_printed_file_gives_the_same_settings(values):
    loaded = _load_values(values)
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8", newline="") as file:
        file.write(describe(loaded))
        file.flush()
        again = load(
            config_file=Path(file.name),
            environ={},
            dotenv=None,
            secrets_dir=Path(__file__).parent,
        )
    assert _without_secrets(again) == _without_secrets(loaded)


def test_every_value_is_printed_with_its_source(load_text, tmp_path):
    loaded = load_text(
        '[[targets]]\nname = "a"\nurl = "http://a:8000"\n',
        env={"VLLM_EXPORTER_PROBE__MAX_TOKENS": "9", "MODEL_ID": "m"},
    )
    lines = describe(loaded).replace(f"{tmp_path}/", "").splitlines()
    assert 'listen = "127.0.0.1:9477"  # default' in lines
    assert "max_tokens = 9  # environment variable VLLM_EXPORTER_PROBE__MAX_TOKENS" in lines
    assert lines[lines.index("[[targets]]") :] == [
        "[[targets]]",
        'name = "a"  # exporter.toml',
        'mode = "external"  # default',
        'url = "http://a:8000"  # exporter.toml',
        "# metrics_url is not set",
        "# kv_events_url is not set",
        "metrics_urls = []  # default",
        'model = "m"  # environment variable MODEL_ID',
        "adapters = []  # default",
        "labels = {}  # default",
        "# api_key is not set",
        "# api_key_file is not set",
        "headers = {}  # default",
        "header_files = {}  # default",
        "extra_body = {}  # default",
        'data_parallel_ranks = "unpinned"  # default',
        "verify_tls = true  # default",
        "# ca_file is not set",
        "# price_per_hour is not set",
        "# currency is not set",
        "# watts is not set",
    ]


def test_a_hidden_secret_is_in_a_comment_so_that_its_stars_are_never_read(load_text):
    text = describe(load_text('[[targets]]\nurl = "http://a"\napi_key = "sk"\n'))
    assert '\n# api_key = "********"  # ' in text
    assert "api_key" not in tomllib.loads(text)["targets"][0]


def test_a_value_of_several_sources_names_them_all(load_text):
    loaded = load_text(
        '[[targets]]\nmode = "managed"\n[targets.container]\nmodel = "m"\n'
        'environment = { A = "1" }\n',
        cli={"targets[0].container.environment.B": "2"},
    )
    (line,) = [line for line in describe(loaded).splitlines() if line.startswith("environment")]
    assert line.startswith('environment = { "A" = "1", "B" = "2" }  # ')
    assert line.endswith("exporter.toml, command line, --set targets[0].container.environment.B")


def test_a_file_name_cannot_break_out_of_its_comment(tmp_path):
    file = tmp_path / "a\nlisten = 'x'\n.toml"
    file.write_text("[probe]\nmax_tokens = 3\n", encoding="utf-8")
    loaded = load(config_file=file, environ={}, dotenv=None, secrets_dir=tmp_path)
    assert tomllib.loads(describe(loaded))["listen"] == "127.0.0.1:9477"


def test_variables_without_effect_are_named_at_the_end(load_text):
    text = describe(load_text(env={"PORT": "3000"}))
    assert text.endswith("\n# environment variable PORT has no effect: there is no target\n")


def test_json_has_the_values_the_sources_and_no_secret(load_text):
    loaded = load_text(
        '[[targets]]\nurl = "http://a"\napi_key = "sk"\n', cli={"probe.max_tokens": "3"}
    )
    told = json.loads(describe_json(loaded))
    assert told["settings"]["probe"]["max_tokens"] == 3
    assert told["settings"]["targets"][0]["api_key"] == "********"
    assert told["sources"]["probe.max_tokens"] == "command line, --probe.max_tokens"
    assert told["sources"]["probe.jitter_ratio"] == "default"
    assert told["sources"]["targets[0].url"].endswith("exporter.toml")
