"""Values of the chart: a wrong one is refused with its place, and every right one is written."""

from __future__ import annotations

import tomllib

import pytest
from helm_chart import NAME
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

TARGETS = {"targets": [{"name": "a", "url": "http://vllm.vllm.svc:8000"}]}


@pytest.mark.parametrize(
    ("values", "place", "words"),
    [
        ({"imagee": {}}, "", "additional properties 'imagee' not allowed"),
        ({"image": {"pullPolicy": "always"}}, "/image/pullPolicy", "value must be one of 'Always'"),
        ({"image": {"digest": "sha256:1"}}, "/image/digest", "does not match pattern"),
        ({"image": {"tag": 1}}, "/image/tag", "got number, want string"),
        ({"fullnameOverride": "A_b"}, "/fullnameOverride", "does not match pattern"),
        ({"service": {"port": 0}}, "/service/port", "minimum: got 0, want 1"),
        ({"service": {"type": "clusterip"}}, "/service/type", "value must be one of"),
        (
            {"serviceMonitor": {"interval": 15}},
            "/serviceMonitor/interval",
            "got number, want string",
        ),
        (
            {"serviceMonitor": {"interval": "15"}},
            "/serviceMonitor/interval",
            "does not match pattern",
        ),
        (
            {"serviceMonitor": {"enabled": "yes"}},
            "/serviceMonitor/enabled",
            "got string, want boolean",
        ),
        (
            {"networkPolicy": {"engines": {"ports": ["http"]}}},
            "/networkPolicy/engines/ports/0",
            "got string",
        ),
        ({"networkPolicy": {"dnsTo": []}}, "/networkPolicy/dnsTo", "minItems: got 0, want 1"),
        (
            {"prometheusRule": {"runbooks": "git.example"}},
            "/prometheusRule/runbooks",
            "does not match",
        ),
        (
            {"prometheusRule": {"files": {"alert": ""}}},
            "/prometheusRule/files",
            "'alert' not allowed",
        ),
        ({"web": {"scheme": "https"}}, "/web/scheme", "value must be one of 'HTTP', 'HTTPS'"),
        ({"podAnnotations": {"a": 1}}, "/podAnnotations/a", "got number, want string"),
        ({"tolerations": {}}, "/tolerations", "got object, want array"),
        ({"replicas": 2}, "", "additional properties 'replicas' not allowed"),
        ({"config": {"prob": {}}}, "/config", "additional properties 'prob' not allowed"),
        (
            {"config": {"probe": {"interval_seconds": "often"}}},
            "/config/probe/interval_seconds",
            "got string, want number",
        ),
        (
            {"config": {"discovery": {"dns": [{"name": "a", "hosts": "b"}]}}},
            "/config/discovery/dns/0",
            "missing property 'host'",
        ),
        (
            {"config": {"discovery": {"kubernetes": [{"namespaces": "vllm"}]}}},
            "/config/discovery/kubernetes/0/namespaces",
            "got string, want array",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_the_reason(helm, values, place, words):
    config = values.get("config", {}) | (
        TARGETS if "discovery" not in values.get("config", {}) else {}
    )
    refused = helm.refused(values | {"config": config})
    assert f"- at '{place}'" in refused
    assert words in refused


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "the exporter has no engine"),
        ({"config": {"targets": [], "discovery": {"dns": []}}}, "the exporter has no engine"),
        (
            {"config": TARGETS, "web": {"tlsSecret": "a", "configSecret": "b"}},
            "set one of web.tlsSecret and web.configSecret",
        ),
        (
            {"config": {"targets": [{"name": "a", "url": "http://x", "api_key": "sk-canary"}]}},
            "put it into the Secret of secrets.existingSecret",
        ),
        (
            {"config": {"discovery": {"kubernetes": [{"api_key": "sk-canary"}]}}},
            "put it into the Secret of secrets.existingSecret",
        ),
    ],
)
def test_values_that_cannot_work_together_are_refused(helm, values, words):
    refused = helm.refused(values)
    assert words in refused
    assert "canary" not in refused


# Every character that YAML can hold as it is, and those below a space.
C1 = "".join(map(chr, range(0x80, 0xA0)))
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters=f"{C1}\ufeff")
KEYS = st.text(CHARACTERS, max_size=6)
LEAVES = (
    st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(-1e9, 1e9)
    | st.text(CHARACTERS, max_size=8)
)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_size=4,
)


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(TREES, min_size=30, max_size=60))
def test_every_value_is_the_same_in_the_configuration_file(helm, trees):
    targets = [
        {"name": f"t{number}", "url": "http://x", "extra_body": tree}
        for number, tree in enumerate(trees)
    ]
    found = helm.objects({"config": {"targets": targets}, "networkPolicy": {"enabled": False}})
    written = tomllib.loads(found["ConfigMap", NAME]["data"]["exporter.toml"])
    assert written == {"log": {"format": "json"}, "targets": targets}


def test_a_whole_number_stays_one(helm):
    found = helm.objects(
        {"config": TARGETS | {"probe": {"max_tokens": 64, "interval_seconds": 1.5}}}
    )
    text = found["ConfigMap", NAME]["data"]["exporter.toml"]
    assert "max_tokens = 64\n" in text
    assert "interval_seconds = 1.5\n" in text
