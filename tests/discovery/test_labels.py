"""Labels make targets of containers. A mistake leaves out only its container."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import DockerDiscovery
from exporter.container.decide.records import ContainerSnapshot, ContainerStatus
from exporter.discovery.targets.labels import targets_of

SCRAPE = "io.vllm-cache-exporter.scrape"


def container(called="vllm-1", /, *, status="running", networks=None, ports=None, **labels):
    return ContainerSnapshot(
        id=f"id-{called}",
        name=called,
        image="vllm/vllm-openai:v0.32.0",
        image_id="sha256:1",
        status=ContainerStatus(status),
        exit_code=None,
        oom_killed=False,
        error="",
        started_time=1.0,
        finished_time=None,
        labels={SCRAPE: "true"} | {f"{SCRAPE}.{key}": value for key, value in labels.items()},
        networks={"models": "172.20.0.7"} if networks is None else networks,
        published_ports=ports or {},
    )


def look(*containers, **settings):
    return targets_of(containers, DockerDiscovery(**settings))


def only(*containers, **settings):
    found = look(*containers, **settings)
    assert not found.mistakes
    (target,) = found.targets
    return target


def mistake(*containers, **settings) -> str:
    found = look(*containers, **settings)
    assert found.targets == ()
    (text,) = found.mistakes.values()
    return text


def test_a_container_with_only_the_label_is_measured_by_its_name_and_address():
    target = only(container())
    assert (target.name, target.mode) == ("vllm-1", "external")
    assert target.base_url == "http://172.20.0.7:8000"
    assert target.container is None


def test_a_container_adds_labels_to_the_series_of_its_target():
    own = {"labels.team": "b", "labels.gpu": "h100"}
    target = only(container(**own), labels={"team": "a", "cluster": "x"})
    assert target.labels == {"team": "b", "cluster": "x", "gpu": "h100"}


def test_a_label_of_series_that_is_reserved_leaves_out_the_container():
    text = mistake(container(**{"labels.reason": "b"}))
    assert f"label {SCRAPE}.labels.reason: is reserved" in text


def test_a_containers_own_labels_win_over_the_settings():
    target = only(
        container(port="9001", name="big", model="m2", scheme="https", path="/llm"),
        port=7000,
        model="m1",
        scheme="http",
        path="/x",
        api_key="secret",
    )
    assert (target.name, target.model) == ("big", "m2")
    assert target.base_url == "https://172.20.0.7:9001/llm"
    assert target.api_key.get_secret_value() == "secret"


def test_an_empty_path_label_overrides_the_path_setting():
    assert only(container(path=""), path="/x").base_url == "http://172.20.0.7:8000"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"port": "web"}, f"label {SCRAPE}.port: must be a whole number"),
        ({"port": "0"}, f"label {SCRAPE}.port: must be 1 or more"),
        ({"scheme": "ftp"}, f'label {SCRAPE}.scheme: must be "http" or "https"'),
        ({"path": "/v1"}, f"label {SCRAPE}.path: must be empty or a path"),
        ({"name": "a b"}, f"label {SCRAPE}.name: must be 1 to 64 letters"),
        ({"model": ""}, f"label {SCRAPE}.model: must be a model name"),
        ({"prot": "80"}, f"label {SCRAPE}.prot: there is no such label"),
        ({"prot.x": "80"}, f"label {SCRAPE}.prot.x: there is no such label"),
    ],
)
def test_a_mistake_in_a_label_leaves_out_only_that_container(labels, words):
    found = look(container("good"), container("bad", **labels))
    assert [each.name for each in found.targets] == ["good"]
    assert found.mistakes["bad"].startswith(words)


def test_all_mistakes_of_a_container_are_reported_at_once():
    text = mistake(container(port="web", scheme="ftp", prot="80"))
    assert [f"{SCRAPE}.{key}" in text for key in ("port", "scheme", "prot")] == [True] * 3


def test_a_name_too_long_for_a_target_is_reported():
    assert "the target's name: must be 1 to 64" in mistake(container("v" * 65))


def test_of_two_containers_with_one_target_name_the_first_gets_it():
    found = look(container("b", name="same"), container("a", name="same"))
    assert [each.base_url for each in found.targets] == ["http://172.20.0.7:8000"]
    assert found.mistakes == {"b": 'another container has the name "same" too'}


def test_a_container_in_several_networks_must_name_one():
    networks = {"front": "172.20.0.7", "models": "172.21.0.7"}
    assert "it is in the networks front, models" in mistake(container(networks=networks))
    by_setting = only(container(networks=networks), network="models")
    by_label = only(container(networks=networks, network="models"), network="front")
    assert by_setting.base_url == by_label.base_url == "http://172.21.0.7:8000"


def test_a_container_without_an_address_is_reported():
    assert "it is in no network" in mistake(container(networks={}))
    assert "no address in the network none" in mistake(container(networks={"none": ""}))
    assert "not in the network other" in mistake(container(), network="other")


def test_a_container_in_the_host_network_has_the_hosts_address():
    on_host = container(networks={"host": ""})
    assert only(on_host).base_url == "http://127.0.0.1:8000"
    elsewhere = only(on_host, docker_host="tcp://gpu-7:2375")
    assert elsewhere.base_url == "http://gpu-7:8000"


def test_an_ipv6_address_goes_into_brackets():
    assert only(container(networks={"six": "fd00::7"})).base_url == "http://[fd00::7]:8000"


def test_a_published_port_is_found_by_the_port_within_the_container():
    everywhere = "0.0.0.0"  # noqa: S104 - as Docker tells it
    ports = {8000: (everywhere, 32768), 9000: ("127.0.0.1", 32769)}
    published = container(networks={}, ports=ports)
    assert only(published, address="published").base_url == "http://127.0.0.1:32768"
    far = only(published, address="published", docker_host="tcp://gpu-7:2375")
    assert far.base_url == "http://gpu-7:32768"
    text = mistake(published, address="published", docker_host="tcp://gpu-7:2375", port=9000)
    assert "for its own machine only" in text
    assert "its port 1 is not published" in mistake(published, address="published", port=1)


@pytest.mark.parametrize("status", ["created", "restarting", "removing", "exited", "dead"])
def test_a_stopped_container_is_no_target(status):
    found = look(container(status=status, networks={"models": ""}))
    assert (found.targets, found.unreachable, found.mistakes) == ((), frozenset(), {})


def test_a_paused_container_is_still_a_target():
    assert only(container(status="paused")).name == "vllm-1"


@pytest.mark.parametrize("status", ["exited", "restarting"])
def test_an_attached_container_stays_a_target_after_it_stopped(status):
    ended = container(status=status, networks={"models": ""}, name="big")
    assert look(ended, mode="attached").unreachable == {"big"}


def test_an_attached_container_is_identified_by_its_name():
    host = "unix:///run/other.sock"
    target = only(container(name="big"), mode="attached", docker_host=host)
    assert (target.mode, target.name, target.container_name) == ("attached", "big", "vllm-1")
    assert target.container.docker_host == host
    assert not target.may_restart


TEXT = st.text(max_size=20) | st.sampled_from(["80", "https", "/x", "big", "models"])
KEYS = st.sampled_from(["port", "scheme", "path", "name", "model", "network", "other", ""])


@given(
    labels=st.lists(st.dictionaries(KEYS, TEXT), max_size=4),
    mode=st.sampled_from(["external", "attached"]),
)
def test_with_any_labels_each_running_container_is_a_target_or_a_mistake(labels, mode):
    containers = [
        container(f"c{number}", **{key: value for key, value in each.items() if key})
        for number, each in enumerate(labels)
    ]
    found = look(*containers, container("good"), mode=mode)
    assert len(found.targets) + len(found.mistakes) == len(labels) + 1
    assert "good" not in found.mistakes or any(each.get("name") == "good" for each in labels)
    assert len({each.name for each in found.targets}) == len(found.targets)
