"""Pods of the API become targets. A mistake leaves out only its pod."""

from __future__ import annotations

from contextlib import suppress

import pytest
from fake_kubernetes import pod_object
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import KubernetesDiscovery
from exporter.discovery.targets.pod_targets import targets_of_pods
from exporter.discovery.targets.pods import PodPhase, UnreadablePodError, pod_of

SCRAPE = "io.vllm-cache-exporter.scrape"


def look(*objects, **settings):
    return targets_of_pods(map(pod_of, objects), KubernetesDiscovery(**settings))


def only(*objects, **settings):
    found = look(*objects, **settings)
    assert not found.mistakes
    (target,) = found.targets
    return target


def mistake(thing, **settings) -> str:
    found = look(thing, **settings)
    assert found.targets == ()
    (text,) = found.mistakes.values()
    return text


def said(**labels):
    return {f"{SCRAPE}.{key}": value for key, value in labels.items()}


def test_a_running_pod_is_measured_by_its_namespace_name_and_address():
    target = only(pod_object("qwen-7d9c-x2x", "models", ip="10.2.0.7"))
    assert (target.name, target.mode) == ("models.qwen-7d9c-x2x", "external")
    assert target.base_url == "http://10.2.0.7:8000"


def test_a_pod_adds_labels_to_the_series_of_its_target():
    own = said(**{"labels.team": "b", "labels.gpu": "h100"})
    target = only(pod_object(annotations=own), labels={"team": "a", "cluster": "x"})
    assert target.labels == {"team": "b", "cluster": "x", "gpu": "h100"}


def test_a_pod_with_an_ipv6_address_is_measured():
    assert only(pod_object(ip="fd00::7")).base_url == "http://[fd00::7]:8000"


def test_a_pods_labels_win_over_the_settings_and_its_annotations_over_both():
    target = only(
        pod_object(
            labels=said(port="9001", name="big", model="m2"),
            annotations=said(scheme="https", path="/llm", model="org/m3"),
        ),
        port=7000,
        model="m1",
        path="/x",
        api_key="secret",
    )
    assert (target.name, target.model) == ("big", "org/m3")
    assert target.base_url == "https://127.0.0.2:9001/llm"
    assert target.api_key.get_secret_value() == "secret"


PORTS = [
    {"name": "metrics", "containerPort": 9400, "protocol": "TCP"},
    {"name": "openai", "containerPort": 8080, "protocol": "TCP"},
    {"containerPort": 22},
]


@pytest.mark.parametrize(
    ("settings", "annotations", "port"),
    [
        ({}, {}, 8000),
        ({"port": 7000}, {}, 7000),
        ({"port": "openai"}, {}, 8080),
        ({"port": "openai"}, said(port="metrics"), 9400),
        ({"port": "openai"}, said(port="81"), 81),
    ],
)
def test_a_port_is_a_number_or_the_name_of_a_containers_port(settings, annotations, port):
    pod = pod_object(ports=PORTS, annotations=annotations)
    assert only(pod, **settings).base_url == f"http://127.0.0.2:{port}"


def test_a_sidecars_port_counts_after_those_of_the_containers():
    pod = pod_object(ports=PORTS)
    sidecar = [{"name": "openai", "containerPort": 1}, {"name": "proxy", "containerPort": 2}]
    pod["spec"]["initContainers"] = [{"name": "s", "restartPolicy": "Always", "ports": sidecar}]
    assert only(pod, port="openai").base_url.endswith(":8080")
    assert only(pod, port="proxy").base_url.endswith(":2")


def test_a_port_name_that_no_container_has_is_a_mistake_that_lists_the_names():
    text = mistake(pod_object(ports=PORTS), port="http")
    assert text == 'no container has a port with the name "http"; there are: metrics, openai'
    nameless = mistake(pod_object(ports=[{"containerPort": 8000}]), port="http")
    assert nameless.endswith("there are: none with a name")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"port": "0"}, f"label or annotation {SCRAPE}.port: must be a port from 1 to 65535"),
        ({"port": "Web"}, f"label or annotation {SCRAPE}.port: must be a port from 1 to 65535"),
        ({"scheme": "ftp"}, f'label or annotation {SCRAPE}.scheme: must be "http" or "https"'),
        ({"name": "a/b"}, f"label or annotation {SCRAPE}.name: must be 1 to 64 letters"),
        ({"prot": "80"}, f"label or annotation {SCRAPE}.prot: there is no such label"),
        ({"network": "x"}, f"label or annotation {SCRAPE}.network: there is no such label"),
    ],
)
def test_a_mistake_leaves_out_only_that_pod(labels, words):
    found = look(pod_object("good"), pod_object("bad", annotations=said(**labels)))
    assert [each.name for each in found.targets] == ["vllm.good"]
    assert found.mistakes["vllm/bad"].startswith(words)


def test_two_pods_with_one_name_are_a_mistake_of_the_second():
    found = look(*(pod_object(name, annotations=said(name="big")) for name in ("b", "a")))
    assert len(found.targets) == 1
    assert found.mistakes == {"vllm/b": 'another pod has the name "big" too'}


@pytest.mark.parametrize("ready", [True, False])
def test_a_running_pod_is_a_target_whether_it_is_ready_or_not(ready):
    assert only(pod_object(ready=ready)).name == "vllm.vllm-0"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_missing(phase):
    assert look(pod_object(phase=phase)) == look()


def test_a_pod_that_is_being_deleted_is_missing():
    assert look(pod_object(terminating=True)) == look()


@pytest.mark.parametrize(
    "waiting", [{"phase": "Pending"}, {"ip": ""}, {"phase": "Pending", "ip": ""}]
)
def test_a_pod_that_has_not_started_keeps_a_target_of_its_name_but_makes_none(waiting):
    found = look(pod_object(**waiting), pod_object("b", annotations=said(name="big"), **waiting))
    assert found.targets == ()
    assert found.unreachable == {"vllm.vllm-0", "big"}


def test_a_pod_whose_node_does_not_answer_stays_a_target():
    assert only(pod_object(phase="Unknown")).name == "vllm.vllm-0"


def test_a_name_that_is_too_long_is_shortened_and_stays_distinct():
    names = [f"{'long-' * 20}{number}" for number in range(3)]
    found = look(*map(pod_object, names))
    short = {each.name for each in found.targets}
    assert len(short) == 3
    assert {len(each) for each in short} == {64}
    again = look(*map(pod_object, reversed(names)))
    assert [each.name for each in again.targets] == [each.name for each in found.targets]


NAMES = st.text("abcz019-", min_size=1, max_size=90)


@given(st.sets(st.tuples(NAMES, st.text("abcz019-.", min_size=1, max_size=120)), max_size=8))
def test_pods_of_any_names_never_share_a_target(pods):
    found = look(*(pod_object(name, namespace) for namespace, name in pods))
    assert found.mistakes == {}
    assert len({each.name for each in found.targets}) == len(pods)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)
PARTS = ("metadata", "spec", "status")
PLACES = st.sampled_from(
    [
        *((part,) for part in PARTS),
        *(("metadata", key) for key in ("name", "namespace", "labels", "annotations", "deletionTimestamp")),
        *(("spec", key) for key in ("containers", "initContainers", "nodeName")),
        *(("status", key) for key in ("phase", "podIP")),
        ("spec", "containers", 0),
        ("spec", "containers", 0, "ports"),
        ("spec", "containers", 0, "ports", 0),
        ("spec", "containers", 0, "ports", 0, "name"),
        ("spec", "containers", 0, "ports", 0, "containerPort"),
    ]
)  # fmt: skip


@given(st.lists(st.tuples(PLACES, JSON), min_size=1, max_size=3), st.sampled_from([8000, "http"]))
def test_a_pod_with_any_value_at_any_place_is_read_or_refused(changes, port):
    pod = pod_object(annotations=said(model="m"))
    for (*path, key), value in changes:
        inner = pod
        try:
            for step in path:
                inner = inner[step]
            inner[key] = value
        except (TypeError, KeyError, IndexError):
            return  # an earlier change took the place away
    with suppress(UnreadablePodError):
        look(pod, port=port)


@given(JSON)
def test_any_json_is_a_pod_or_refused(document):
    with pytest.raises(UnreadablePodError):
        pod_of(document)


def test_only_what_makes_a_target_is_kept_of_a_pod():
    pod = pod_of(pod_object(labels={"app": "x"} | said(model="m"), annotations={"other": "y"}))
    assert pod.overrides == said(model="m")
    assert (pod.phase, pod.ports) == (PodPhase.RUNNING, {"http": 8000})
