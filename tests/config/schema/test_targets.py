"""Values derived from a target's settings, and checks of settings created in code."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from exporter.config import ContainerSettings, Settings, Target


def managed(name="t", mode="managed", url=None, **container) -> Target:
    return Target(
        name=name, mode=mode, url=url, container=ContainerSettings(model="m", **container)
    )


@pytest.mark.parametrize(
    ("container", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host_port": 9000}, "http://127.0.0.1:9000"),
        ({"host_ip": "0.0.0.0"}, "http://127.0.0.1:8000"),  # noqa: S104 - the case itself
        ({"host_ip": "10.0.0.5"}, "http://10.0.0.5:8000"),
        ({"host_ip": "::"}, "http://[::1]:8000"),
    ],
)
def test_a_managed_target_is_reached_on_the_port_it_publishes(container, url):
    target = managed(**container)
    assert target.base_url == url
    assert target.effective_metrics_url == f"{url}/metrics"


def test_a_set_url_wins_over_the_published_port():
    assert managed(url="http://vllm:8000/", host_port=0).base_url == "http://vllm:8000"


def test_the_metrics_page_can_have_its_own_url():
    target = Target(url="http://e:8000", metrics_url="http://e:9000/m/")
    assert target.effective_metrics_url == "http://e:9000/m"


def test_the_pages_of_replicas_are_named_by_their_host_and_port():
    target = Target(url="http://r", metrics_urls=["http://a:1/metrics", "http://b:1/metrics/"])
    assert target.replica_pages == {
        "a:1": "http://a:1/metrics",
        "b:1": "http://b:1/metrics",
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"metrics_url": "http://r/m"}, "takes the place of metrics_url"),
        ({"metrics_urls": ["http://a:1/x", "http://a:1/y"]}, "names a host and port twice"),
        ({"metrics_urls": ["a/metrics"]}, "must be an http or https URL"),
        ({"kv_events_url": "tcp://a:5557"}, "kv_events_url is one"),
    ],
)
def test_pages_of_replicas_that_cannot_be_told_apart_are_refused(given, words):
    pages = {"metrics_urls": ["http://a:1/metrics"], **given}
    with pytest.raises(ValidationError, match=words):
        Target(url="http://r", **pages)


def test_adapters_are_named_or_all_that_the_server_lists():
    assert Target(url="http://e").adapters == ()
    assert Target(url="http://e", adapters="all").adapters == "all"
    assert Target(url="http://e", adapters=["sql", "code"]).adapters == ("sql", "code")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["sql", "sql"], "names an adapter twice"),
        ([""], "must be"),
        (3, "must be"),
        (["-x"], "must"),
    ],
)
def test_other_adapters_are_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        Target(url="http://e", adapters=given)


def test_a_managed_container_is_named_after_its_target():
    assert managed("a").container_name == "vllm-a"
    named = Target(mode="managed", container=ContainerSettings(model="m", name="mine"))
    assert named.container_name == "mine"


def test_a_container_identified_by_a_label_has_no_name_yet():
    found = Target(mode="attached", url="http://v", container=ContainerSettings(label="a=b"))
    assert found.container_name is None
    assert Target(url="http://e").container_name is None


@pytest.mark.parametrize(
    ("mode", "restart", "may"),
    [
        ("managed", "auto", True),
        ("managed", "never", False),
        ("attached", "auto", False),
        ("attached", "always", True),
        ("attached", "never", False),
    ],
)
def test_an_attached_container_is_restarted_only_if_the_settings_allow_it(mode, restart, may):
    own = {"model": "m"} if mode == "managed" else {"name": "theirs"}
    container = ContainerSettings(restart=restart, **own)
    assert Target(mode=mode, url="http://v", container=container).may_restart is may


def test_an_external_target_is_never_restarted():
    assert Target(url="http://e").may_restart is False


def test_settings_made_in_code_do_not_read_the_environment(monkeypatch):
    monkeypatch.setenv("VLLM_EXPORTER_LISTEN", "127.0.0.1:1")
    assert str(Settings().listen) == "127.0.0.1:9477"


def test_settings_cannot_be_changed():
    settings = Settings(targets=[Target(url="http://e")])
    with pytest.raises(ValidationError):
        settings.targets[0].url = "http://other"


def test_two_targets_with_one_name_are_refused_in_code_too():
    with pytest.raises(ValidationError, match="must differ"):
        Settings(targets=[Target(url="http://a"), Target(url="http://b")])


def test_settings_in_code_cannot_create_an_attached_container_either():
    container = ContainerSettings(name="theirs", image="a:1")
    with pytest.raises(ValidationError, match="the exporter did not create this container"):
        Target(mode="attached", url="http://v", container=container)
