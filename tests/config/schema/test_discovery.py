"""The settings of discovery."""

from __future__ import annotations

import json

import pytest

from exporter.config import describe, describe_json

DNS = '[[discovery.dns]]\nname = "vllm"\nhost = "vllm.models.svc"\n'
DOCKER = "[[discovery.docker]]\n"
PODS = "[[discovery.kubernetes]]\n"


@pytest.mark.parametrize("source", [DNS, DOCKER, PODS])
def test_a_source_counts_where_targets_are_required(load_text, source):
    assert load_text(source, targets_required=True).settings.targets == ()


def test_no_targets_and_no_sources_is_a_mistake(mistakes_of):
    found = mistakes_of("[discovery]\nmax_targets = 5\ndns = []\n", targets_required=True)
    assert found == ["targets: at least one is required: set [[targets]] in a file, or VLLM_HOST"]


def test_sources_can_come_from_variables(load_text):
    settings = load_text(
        env={
            "VLLM_EXPORTER_DISCOVERY__DNS__0__NAME": "vllm",
            "VLLM_EXPORTER_DISCOVERY__DNS__0__HOST": "vllm.models.svc",
            "VLLM_EXPORTER_DISCOVERY__DOCKER": '[{"label": "vllm"}]',
        }
    ).settings.discovery
    assert [each.host for each in settings.dns] == ["vllm.models.svc"]
    assert [each.label for each in settings.docker] == ["vllm"]


def test_all_mistakes_are_reported_at_once(mistakes_of):
    found = mistakes_of(
        "[discovery]\nmax_targets = 0\n"
        '[[discovery.dns]]\nhost = "vllm:8000"\nprt = 1\nrefresh_seconds = 0.5\n'
        f'{DNS}{DNS}currency = "euro"\n[[discovery.docker]]\npath = "/v1"\nmode = "managed"\n'
    )
    assert found == [
        "exporter.toml: discovery.max_targets = 0: must be 1 or more",
        "exporter.toml: discovery.dns[0].name: is required",
        (
            'exporter.toml: discovery.dns[0].host = "vllm:8000": must be a DNS name, such as '
            '"vllm.models.svc.cluster.local", without port and scheme'
        ),
        "exporter.toml: discovery.dns[0].refresh_seconds = 0.5: must be 1 or more",
        "exporter.toml: discovery.dns[0].prt: unknown key; did you mean discovery.dns[0].port?",
        (
            'exporter.toml: discovery.dns[2].currency = "euro": must be three capital letters, such as '
            '"EUR" (ISO 4217)'
        ),
        (
            'exporter.toml: discovery.dns[2].name = "vllm": must differ from the names of the other '
            "sources"
        ),
        'exporter.toml: discovery.docker[0].mode = "managed": must be "external" or "attached"',
        (
            'exporter.toml: discovery.docker[0].path = "/v1": must be empty or a path such as "/llm", '
            "without /v1 and without a final slash"
        ),
    ]


def test_two_docker_engines_need_names(mistakes_of):
    assert mistakes_of(DOCKER * 2) == [
        (
            'default: discovery.docker[1].name = "docker": must differ from the names of the other '
            "sources"
        )
    ]


@pytest.mark.parametrize("host", ["10.0.0.7", "fd00::7", "http://vllm", "a..b", "-a", "a" * 64, ""])
def test_an_invalid_host_name_is_refused(mistakes_of, host):
    (found,) = mistakes_of(f'[[discovery.dns]]\nname = "vllm"\nhost = "{host}"\n')
    assert "must be a DNS name" in found


@pytest.mark.parametrize("host", ["vllm", "localhost", "_vllm._tcp.x", "vllm.svc.", "3com.example"])
def test_all_kinds_of_host_names_are_accepted(load_text, host):
    toml = f'[[discovery.dns]]\nname = "vllm"\nhost = "{host}"\n'
    assert load_text(toml).settings.discovery.dns[0].host == host


def test_a_network_with_published_ports_is_refused(mistakes_of):
    (found,) = mistakes_of(f'{DOCKER}address = "published"\nnetwork = "models"\n')
    assert 'network = "models": has no effect with address = "published"' in found


def test_a_key_from_a_file_is_read_and_hidden(load_text, tmp_path):
    (tmp_path / "key").write_text("sk-canary\n")
    loaded = load_text(f'{DNS}api_key_file = "key"\n{DOCKER}api_key = "sk-canary"\n')
    discovery = loaded.settings.discovery
    assert discovery.dns[0].api_key.get_secret_value() == "sk-canary"
    assert "canary" not in describe(loaded) + describe_json(loaded) + repr(loaded.settings)


def test_printed_settings_show_their_sources_and_can_be_read_again(load_text):
    loaded = load_text(f"{DNS}port = 8001\n{DOCKER}")
    printed = describe(loaded)
    assert "[[discovery.dns]]" in printed
    assert "port = 8001  # " in printed
    assert load_text(printed).settings.discovery == loaded.settings.discovery
    sources = json.loads(describe_json(loaded))["sources"]
    assert sources["discovery.dns[0].port"].endswith("exporter.toml")
    assert sources["discovery.dns[0].scheme"] == "default"


@pytest.mark.parametrize("port", ['"http"', "8000", '"8000"', '"a-1"', '"nineteen-chars1"'])
def test_the_port_of_a_pod_is_a_number_or_a_name(load_text, port):
    found = load_text(f"{PODS}port = {port}\n").settings.discovery.kubernetes[0].port
    assert str(found) == port.strip('"')
    assert isinstance(found, int) == (port.strip('"') == "8000")


@pytest.mark.parametrize(
    "port",
    [
        "0",
        "65536",
        "true",
        '"0"',
        '"99999"',
        '"Http"',
        '"a--b"',
        '"-a"',
        '"a-"',
        '"sixteen-chars-16"',
        '""',
        "1.5",
    ],
)
def test_a_port_that_kubernetes_would_refuse_is_refused(mistakes_of, port):
    (found,) = mistakes_of(f"{PODS}port = {port}\n")
    assert found.endswith('must be a port from 1 to 65535, or the name of a port, such as "http"')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('namespaces = ["a", "a"]', "names a namespace twice"),
        ('namespaces = ["*", "a"]', 'must be ["*"] alone for every namespace'),
        ('namespaces = ["A"]', 'must be the name of a namespace, or "*" for every one'),
        ('namespaces = ["a.b"]', 'must be the name of a namespace, or "*" for every one'),
        ('namespaces = ["a/../b"]', 'must be the name of a namespace, or "*" for every one'),
        ('label_selector = ""', "must not be empty or begin or end with a space"),
        ('api_url = "http://127.0.0.1:8001"', "needs namespaces: only a pod knows its own"),
        (
            'namespaces = ["a"]\napi_url = "https://u:p@x"',
            "must not contain a user or password: use api_key or api_key_file",
        ),
    ],
)
def test_a_mistake_in_a_source_of_pods_says_what_is_allowed(mistakes_of, text, words):
    (found,) = mistakes_of(f"{PODS}{text}\n")
    assert found.endswith(words)


def test_files_for_the_api_are_relative_to_the_configuration(load_text, tmp_path):
    text = f'{PODS}namespaces = ["a"]\napi_url = "https://x:6443"\napi_token_file = "token"\n'
    (source,) = load_text(text).settings.discovery.kubernetes
    assert source.api_token_file == tmp_path / "token"
