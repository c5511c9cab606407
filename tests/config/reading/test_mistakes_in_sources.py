"""Invalid sources, and the exact message for each."""

from __future__ import annotations

import pytest

EXTERNAL = '[[targets]]\nurl = "http://e:8000"\n'
MANAGED = '[[targets]]\nmode = "managed"\n[targets.container]\nmodel = "m"\n'

BAD = {
    "unknown env": (
        {"env": {"VLLM_EXPORTER_PROBE_MAX_TOKENS": "3"}},
        [
            "environment variable VLLM_EXPORTER_PROBE_MAX_TOKENS: unknown variable; did you mean VLLM_EXPORTER_PROBE__MAX_TOKENS?",
        ],
    ),
    "unknown env far": (
        {"env": {"VLLM_EXPORTER_XYZ": "3"}},
        [
            "environment variable VLLM_EXPORTER_XYZ: unknown variable",
        ],
    ),
    "env number": (
        {"env": {"VLLM_EXPORTER_PROBE__MAX_TOKENS": "many"}},
        [
            'environment variable VLLM_EXPORTER_PROBE__MAX_TOKENS: probe.max_tokens = "many": must be a whole number',
        ],
    ),
    "env json": (
        {"env": {"VLLM_EXPORTER_TARGETS": "[{"}},
        [
            "environment variable VLLM_EXPORTER_TARGETS: targets: must be a JSON list, column 3",
        ],
    ),
    "env json kind": (
        {"env": {"VLLM_EXPORTER_PROBE": "[1]"}},
        [
            "environment variable VLLM_EXPORTER_PROBE: probe: must be a JSON object",
        ],
    ),
    "env gap": (
        {"env": {"VLLM_EXPORTER_TARGETS__1__URL": "http://h"}},
        [
            "environment variable VLLM_EXPORTER_TARGETS__1__URL: targets[1].url: is beyond the list's end: the next index is 0",
        ],
    ),
    "env bool": (
        {"toml": EXTERNAL, "env": {"VLLM_EXPORTER_TARGETS__0__VERIFY_TLS": "maybe"}},
        [
            'environment variable VLLM_EXPORTER_TARGETS__0__VERIFY_TLS: targets[0].verify_tls = "maybe": must be true or false',
        ],
    ),
    "dotenv": (
        {"dotenv": "VLLM_EXPORTER_LOG__LEVEL=loud\n"},
        [
            '.env, variable VLLM_EXPORTER_LOG__LEVEL: log.level = "loud": must be "debug", "info", "warning" or "error"',
        ],
    ),
    "dotenv syntax": (
        {"dotenv": "A=1\n'oops\n"},
        [
            ".env, line 2: must be NAME=value",
        ],
    ),
    "dotenv secrets dir": (
        {"dotenv": "VLLM_EXPORTER_SECRETS_DIR=/x"},
        [
            ".env, variable VLLM_EXPORTER_SECRETS_DIR: works only in the environment",
        ],
    ),
    "secrets empty": (
        {"secrets": {"vllm_exporter_log__level": " \n"}},
        [
            "secrets file secrets/vllm_exporter_log__level: is empty",
        ],
    ),
    "secrets value": (
        {"secrets": {"VLLM_EXPORTER_LOG__LEVEL": "canary"}},
        [
            'secrets file secrets/VLLM_EXPORTER_LOG__LEVEL: log.level: must be "debug", "info", "warning" or "error"',
        ],
    ),
    "secrets unknown": (
        {"secrets": {"vllm_exporter_token": "canary"}},
        [
            "secrets file secrets/vllm_exporter_token: unknown variable",
        ],
    ),
    "cli unknown": (
        {"cli": {"probe.max_token": "3"}},
        [
            "command line, --set probe.max_token: unknown key; did you mean probe.max_tokens?",
        ],
    ),
    "cli bad": (
        {"cli": {"probe.max_tokens": "0"}},
        [
            'command line, --probe.max_tokens: probe.max_tokens = "0": must be 1 or more',
        ],
    ),
    "cli set": (
        {"cli": {"targets[0].url": "nope"}},
        [
            'command line, --set targets[0].url: targets[0].url = "nope": must be an http or https URL, such as "http://127.0.0.1:8000"',
        ],
    ),
    "none": (
        {"targets_required": True},
        [
            "targets: at least one is required: set [[targets]] in a file, or VLLM_HOST",
        ],
    ),
    "port": (
        {"env": {"VLLM_HOST": "h", "PORT": "http"}},
        [
            'environment variable PORT = "http": must be a port from 1 to 65535',
        ],
    ),
    "two tokens": (
        {"toml": MANAGED, "env": {"HF_TOKEN": "a", "HF_TOKEN_FILE": "/b"}},
        [
            "environment variable HF_TOKEN: is set together with HF_TOKEN_FILE: keep one of them",
        ],
    ),
    "gpu util": (
        {"toml": MANAGED, "env": {"GPU_MEM_UTIL": "90%"}},
        [
            'environment variable GPU_MEM_UTIL: targets[0].container.gpu_memory_utilization = "90%": must be a number',
        ],
    ),
    "vllm host": (
        {"env": {"VLLM_HOST": "user:pw@host"}},
        [
            'environment variable VLLM_HOST: targets[0].url = "http://********@host": must not contain a user or password: use api_key or api_key_file',
        ],
    ),
    "ca": (
        {"toml": EXTERNAL + 'ca_file="exporter.toml"'},
        [
            'exporter.toml: targets[0].ca_file = "exporter.toml": must be a file of certificates in PEM',
        ],
    ),
    "ca unused": (
        {"toml": EXTERNAL + 'ca_file="exporter.toml"\nverify_tls=false'},
        [
            'exporter.toml: targets[0].ca_file = "exporter.toml": must be a file of certificates in PEM',
            'exporter.toml: targets[0].ca_file = "exporter.toml": has no effect with verify_tls = false: keep one of them',
        ],
    ),
    "override": (
        {"toml": "probe = 3", "env": {"VLLM_EXPORTER_PROBE__MAX_TOKENS": "3"}},
        [
            "exporter.toml: probe: must be a table",
        ],
    ),
    "date": (
        {"toml": EXTERNAL + "model = 2026-01-01"},
        [
            'exporter.toml: targets[0].model = "2026-01-01": must be text',
        ],
    ),
    "label turn": (
        {"toml": "[probe]\nturn_label_limit=100000"},
        [
            "exporter.toml: probe.turn_label_limit = 100000: must be 1000 or less",
        ],
    ),
}


@pytest.mark.parametrize(("configuration", "lines"), BAD.values(), ids=BAD.keys())
def test_each_mistake_names_source_key_value_and_what_is_allowed(mistakes_of, configuration, lines):
    assert mistakes_of(**configuration) == lines


def test_mistakes_of_all_sources_are_reported_at_once(mistakes_of):
    assert mistakes_of(
        '[probe]\ninterval_seconds = 0\nmax_token = 1\n[[targets]]\nname = "a b"\nmode = "managed"',
        dotenv="VLLM_EXPORTER_SCRAPE__TIMEOUT_SECONDS=-1",
        env={"VLLM_EXPORTER_LOG__LEVEL": "loud", "VLLM_EXPORTER_LOGLEVEL": "info"},
        secrets={"vllm_exporter_history__sessions": "few"},
        cli={"listen": "here"},
    ) == [
        (
            "environment variable VLLM_EXPORTER_LOGLEVEL: unknown variable; "
            "did you mean VLLM_EXPORTER_LOG__LEVEL?"
        ),
        (
            'command line, --listen: listen = "here": must be "host:port" with a port from 0 to 65535, '
            'an IPv6 address in brackets, such as "127.0.0.1:9477", ":9477" or "[::1]:9477"'
        ),
        (
            'environment variable VLLM_EXPORTER_LOG__LEVEL: log.level = "loud": '
            'must be "debug", "info", "warning" or "error"'
        ),
        "exporter.toml: probe.interval_seconds = 0: must be above 0",
        "exporter.toml: probe.max_token: unknown key; did you mean probe.max_tokens?",
        (
            '.env, variable VLLM_EXPORTER_SCRAPE__TIMEOUT_SECONDS: scrape.timeout_seconds = "-1": '
            "must be above 0"
        ),
        (
            "secrets file secrets/vllm_exporter_history__sessions: history.sessions: "
            "must be a whole number"
        ),
        (
            'exporter.toml: targets[0].name = "a b": must be 1 to 64 letters, digits, "_", "." or "-": '
            "it becomes a label value"
        ),
        'exporter.toml: targets[0].container: is required in mode "managed"',
    ]


def test_after_an_unreadable_file_nothing_else_is_checked(mistakes_of):
    # Without the file every target in the environment would be incomplete.
    assert mistakes_of("[probe", env={"VLLM_EXPORTER_TARGETS__0__MODE": "managed"}) == [
        (
            "exporter.toml: is not TOML: Expected ']' at the end of a table declaration "
            "(at end of document)"
        )
    ]


def test_a_missing_or_binary_file_is_reported(load_text, mistakes_of, tmp_path):
    (tmp_path / "exporter.toml").write_bytes(b"a = '\xff'")
    missing = {"VLLM_EXPORTER_CONFIG": str(tmp_path / "gone.toml")}
    folder = {"VLLM_EXPORTER_CONFIG": str(tmp_path)}
    binary = {"VLLM_EXPORTER_CONFIG": str(tmp_path / "exporter.toml")}
    assert mistakes_of(env=missing) == ["gone.toml: cannot be read: it does not exist"]
    assert mistakes_of(env=folder) == [f"{tmp_path}: cannot be read: it is not a file"]
    assert mistakes_of(env=binary) == ["exporter.toml: is not UTF-8: byte 6"]


def test_a_deeply_nested_value_is_a_mistake_not_a_crash(mistakes_of):
    deep = "[" * 100_000
    assert mistakes_of(f"a = {deep}") == ["exporter.toml: is nested too deeply"]
    assert mistakes_of(env={"VLLM_EXPORTER_TARGETS": deep}) == [
        "environment variable VLLM_EXPORTER_TARGETS: targets: must be a JSON list"
    ]


def test_nesting_that_only_the_parser_can_handle_is_a_mistake_not_a_crash(mistakes_of):
    told = ["exporter.toml: is nested too deeply"]
    assert mistakes_of(".".join("a" * 500) + " = 1") == told
    assert mistakes_of(f"a = {'[' * 300}{']' * 300}") == told
    environment = "VLLM_EXPORTER_TARGETS__0__CONTAINER__ENVIRONMENT"
    assert mistakes_of(env={environment: '{"a":' * 300 + "1" + "}" * 300})[0] == (
        f"environment variable {environment}: targets[0].container.environment: "
        "is nested too deeply"
    )


def test_a_number_that_python_cannot_read_is_a_mistake_not_a_crash(mistakes_of):
    assert mistakes_of(f"probe.max_tokens = {'9' * 4301}") == [
        "exporter.toml: has a number with too many digits"
    ]


def test_a_mistake_shortens_a_huge_key_and_a_huge_number(mistakes_of):
    (unknown,) = mistakes_of(f"{'a' * 100_000} = 1")
    assert unknown == f"exporter.toml: {'a' * 200}…: unknown key"
    (large,) = mistakes_of(f"probe.max_tokens = {'9' * 4000}")
    assert large.startswith(f"exporter.toml: probe.max_tokens = {'9' * 200}…: ")


def test_a_secret_is_not_read_from_an_endless_device(mistakes_of):
    told = mistakes_of('[[targets]]\nurl = "http://e"\napi_key_file = "/dev/zero"')
    assert len(told) == 1
    assert told[0].endswith("is too large: a secret has at most 1 MiB")


def test_variables_of_a_kubernetes_service_are_not_settings(load_text):
    links = {
        "VLLM_EXPORTER_SERVICE_HOST": "10.0.0.1",
        "VLLM_EXPORTER_SERVICE_PORT": "9477",
        "VLLM_EXPORTER_SERVICE_PORT_HTTP": "9477",
        "VLLM_EXPORTER_PORT": "tcp://10.0.0.1:9477",
        "VLLM_EXPORTER_PORT_9477_TCP": "tcp://10.0.0.1:9477",
        "VLLM_EXPORTER_PORT_9477_TCP_ADDR": "10.0.0.1",
    }
    assert load_text(env=links).sources == {}


def test_a_service_variable_alone_is_a_mistake(mistakes_of):
    assert mistakes_of(env={"VLLM_EXPORTER_PORT": "9477"}) == [
        "environment variable VLLM_EXPORTER_PORT: unknown variable"
    ]
