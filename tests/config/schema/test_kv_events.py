"""Where KV events are received: an address to connect to, and the extra that it needs."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from exporter.config import Target
from exporter.config.schema import kv_events


def target(events, **more):
    return Target(name="t", **{"url": "http://engine:8000", "kv_events_url": events, **more})


def refused(*given, **more) -> str:
    with pytest.raises(ValidationError) as caught:
        target(*given, **more)
    return " ".join(line["msg"] for line in caught.value.errors())


@pytest.mark.parametrize(
    "url",
    ["tcp://127.0.0.1:5557", "tcp://vllm-0.engines:5557", "tcp://[::1]:5557", "ipc:///run/events"],
)
def test_an_address_to_connect_to_is_accepted(url):
    assert target(url).kv_events_url == url


@pytest.mark.parametrize(
    "url",
    [
        *("tcp://*:5557", "tcp://engine", "tcp://engine:0", "tcp://engine:65536"),
        *("http://engine:5557", "engine:5557", "tcp://user@engine:5557", "ipc://", ""),
    ],
)
def test_any_other_address_is_refused_with_an_example(url):
    assert '"tcp://127.0.0.1:5557"' in refused(url)


@pytest.mark.parametrize("missing", ["zmq", "msgspec"])
def test_without_its_packages_the_error_says_what_to_install(monkeypatch, missing):
    monkeypatch.setattr(kv_events, "find_spec", lambda name: None if name == missing else object())
    message = refused("tcp://127.0.0.1:5557")
    assert "pip install 'pyzmq>=26' 'msgspec>=0.19'" in message
    assert target(None).kv_events_url is None


def managed(url, **container):
    return target(url, url=None, mode="managed", container={"model": "m", **container})


def test_the_events_of_a_managed_container_are_not_on_a_port_of_this_machine():
    with pytest.raises(ValidationError) as caught:
        managed("tcp://127.0.0.1:5557")
    (line,) = caught.value.errors()
    assert line["loc"] == ("container", "network")
    assert "this port of the container is not published" in line["msg"]


@pytest.mark.parametrize(
    ("url", "network"),
    [
        *(("tcp://127.0.0.1:5557", "host"), ("tcp://vllm-t:5557", "engines")),
        *(("tcp://10.0.0.7:5557", None), ("ipc:///run/events", None)),
    ],
)
def test_addresses_that_may_lead_to_a_managed_container_are_accepted(url, network):
    assert managed(url, network=network).kv_events_url == url
