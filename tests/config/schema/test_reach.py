"""A URL that cannot lead to the container is refused; the message names both settings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from exporter.config import Target

URL = "http://127.0.0.1:18400"
TLS = ("--ssl-keyfile", "/k", "--ssl-certfile", "/c")


def managed(url: str | None, *, command=None, **container: object) -> Target:
    image = {"command": command} if command else {"model": "m"}
    return Target(name="t", mode="managed", url=url, container={**image, **container})


def refused(url: str | None, **container: object) -> dict[str, str]:
    """The key in the container's settings, and the message."""
    with pytest.raises(ValidationError) as caught:
        managed(url, **container)
    return {str(line["loc"][-1]): line["msg"] for line in caught.value.errors()}


@pytest.mark.parametrize(
    ("url", "container", "key"),
    [
        (URL, {}, "host_port"),
        ("http://localhost:18400", {}, "host_port"),
        ("http://[::1]:18400", {"host_ip": "::1"}, "host_port"),
        ("http://0.0.0.0:18400", {}, "host_port"),
        ("http://127.0.0.1", {}, "host_port"),  # port 80
        (URL, {"host_port": 18401}, "host_port"),
        ("http://127.0.0.1:8000", {"host_port": 0}, "host_port"),
        ("http://10.0.0.5:8001", {"host_ip": "10.0.0.5"}, "host_port"),
        (URL, {"network": "engines"}, "host_port"),
        (URL, {"network": "host"}, "host_port"),
        (URL, {"docker_host": "tcp://127.0.0.1:2375"}, "host_port"),
        ("http://127.0.0.1:8000", {"host_ip": "10.0.0.5"}, "host_ip"),
        ("http://localhost:8000", {"host_ip": "10.0.0.5"}, "host_ip"),
        ("http://127.0.0.2:8000", {}, "host_ip"),
        ("http://[::1]:8000", {}, "host_ip"),
        ("https://127.0.0.1:8000", {}, "args"),
        ("https://vllm-t:8000", {"network": "engines"}, "args"),
        ("http://127.0.0.1:8000", {"args": TLS}, "args"),
        ("http://vllm-t:8000", {"network": "engines", "args": TLS}, "args"),
        ("http://vllm-t:8000", {"network": "none"}, "network"),
    ],
)
def test_two_settings_that_contradict_each_other_are_refused_by_both_names(url, container, key):
    message = refused(url, **container)[key]
    assert "url" in message
    assert url in message or key == "network"


def test_tls_flags_need_a_url_because_the_default_url_is_http():
    assert "url" in refused(None, args=TLS)["args"]


@pytest.mark.parametrize(
    ("url", "container"),
    [
        (None, {}),
        (URL, {"host_port": 18400}),
        ("http://localhost:18400", {"host_port": 18400}),
        ("http://127.0.0.1", {"host_port": 80}),
        ("http://[::1]:8000", {"host_ip": "::"}),
        ("http://127.0.0.1:8000", {"host_ip": "0.0.0.0"}),  # noqa: S104 - the case itself
        ("http://127.0.0.1:8000", {"network": "host", "host_port": 0}),
        ("https://127.0.0.1:8000", {"args": TLS}),
        ("https://127.0.0.1:8000", {"args": ("--ssl_certfile=/c", "--ssl_keyfile=/k")}),
        ("https://127.0.0.1:8000", {"command": ["serve-with-tls"]}),
        # A proxy, a tunnel or a network name may lead to the container.
        ("https://llm.example.org", {}),
        ("http://10.0.0.7:18400", {}),
        ("http://vllm-t:8000", {}),
        ("https://vllm-t:8443", {"network": "engines"}),
        (URL, {"docker_host": "tcp://docker-proxy:2375"}),
    ],
)
def test_a_url_that_may_lead_to_the_container_is_accepted(url, container):
    assert managed(url, **container).url == url


def test_a_contradiction_is_reported_with_file_and_key(mistakes_of):
    [told] = mistakes_of(
        f'[[targets]]\nmode = "managed"\nurl = "{URL}"\n[targets.container]\nmodel = "m"\n'
    )
    assert told == (
        f"default: targets[0].container.host_port = 8000: contradicts url, which is '{URL}': "
        "the container does not listen on 18400; use the same port in both"
    )


def test_the_url_of_an_attached_container_is_not_checked():
    assert Target(name="t", mode="attached", url=URL, container={"name": "theirs"}).url == URL
