"""The types of values: what they accept, and that their text form can be read again."""

from __future__ import annotations

import ipaddress

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from exporter.config.schema.values import (
    BaseUrl,
    CacheMount,
    ContainerName,
    ListenAddress,
    MountText,
    parse_bytes,
    parse_gpus,
    parse_listen,
    show_bytes,
)

ports = st.integers(0, 65535)
hosts = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True) | st.ip_addresses(
    v=4
).map(str)


@given(host=hosts | st.ip_addresses(v=6).map(str), port=ports)
def test_a_listen_address_is_read_back_from_what_it_writes(host, port):
    address = ListenAddress(host, port)
    assert parse_listen(str(address)) == address


@given(address=st.ip_addresses(v=6), port=ports)
def test_an_ipv6_address_is_in_brackets(address, port):
    assert parse_listen(f"[{address}]:{port}").host == str(address)
    with pytest.raises(PydanticCustomError):
        parse_listen(f"{address}:{port}")


def test_a_port_alone_means_every_ipv4_address():
    assert str(parse_listen(":9477")) == "0.0.0.0:9477"


@pytest.mark.parametrize(
    "text",
    ["", ":", "9477", "h", "h:", "h:x", "h:65536", "h:-1", "[h]:1", "h:1\n", "u@h:1", 9477],
)
def test_an_invalid_listen_address_is_refused(text):
    with pytest.raises(PydanticCustomError):
        parse_listen(text)


@given(st.integers(1, 1 << 60))
def test_a_size_is_read_back_from_what_it_writes(size):
    assert parse_bytes(show_bytes(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8g", 8 << 30),
        ("8G", 8 << 30),
        ("8GiB", 8 << 30),
        ("8gb", 8 << 30),
        ("64m", 64 << 20),
        ("1k", 1024),
        ("7", 7),
        ("7b", 7),
        (7, 7),
        ("2 t", 2 << 40),
    ],
)
def test_a_size_is_read_as_in_docker(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "g", "-1", "0", "0g", 0, -1, True, 1.5, "1.5g", "8x", None])
def test_an_invalid_size_is_refused(text):
    with pytest.raises(PydanticCustomError):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("value", "gpus"),
    [
        ("all", "all"),
        (2, 2),
        ("2", 2),
        (0, 0),
        (["0", "1"], ("0", "1")),
        ([0, 1], ("0", "1")),
        ("device=0,1", ("0", "1")),
        ("0,1", ("0", "1")),
        ("device=GPU-1a", ("GPU-1a",)),
    ],
)
def test_gpus_are_all_a_count_or_ids(value, gpus):
    assert parse_gpus(value) == gpus


@pytest.mark.parametrize("value", ["", "some", -1, True, [], ["0", "0"], [""], [True], 1.5, "0,0"])
def test_an_invalid_gpu_choice_is_refused(value):
    with pytest.raises(PydanticCustomError):
        parse_gpus(value)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h", "http://h"),
        ("http://h:8000/", "http://h:8000"),
        ("https://h/engine/", "https://h/engine"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("HTTP://h", "http://h"),
        ("h:8000", "http://h:8000"),
        ("gpu-box_1.lan:8000/engine/", "http://gpu-box_1.lan:8000/engine"),
        ("[::1]:8000/v1", "http://[::1]:8000"),
        ("http://h/v1", "http://h"),
        ("https://h/engine/v1/", "https://h/engine"),
        ("http://h/v12", "http://h/v12"),
    ],
)
def test_a_url_ends_without_a_slash_and_v1_and_begins_with_its_scheme(text, url):
    assert TypeAdapter(BaseUrl).validate_python(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "h:99999",
        "http:8000:1",
        "//h",
        "ftp://h",
        "http://",
        "http://:8000",
        "http://h:",
        "http://h:x",
        "http://h:0",
        "http://h:70000",
        "http://h /",
        "http://h\n",
        "http://[::1",
        "http://h/v1?",
        "u@h:8000",
        "http://u@h",
        "http://h?",
        "http://h#x",
    ],
)
def test_a_url_that_is_not_a_server_root_is_refused(text):
    with pytest.raises(ValidationError):
        TypeAdapter(BaseUrl).validate_python(text)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (ContainerName, ["vllm-1", "a.b_c"], ["", "a", "-a", "a b", "a/b", "ab\n"]),
        (CacheMount, ["none", "/cache", "a-volume"], ["", "cache/dir", "./a", "/a:/b"]),
        (MountText, ["/a:/b", "vol-1:/b:ro", "/a b:/c:rw"], ["/a", "a/b:/c", "/a:b", "/a:/b:x"]),
    ],
)
def test_names_and_mounts_follow_dockers_rules(kind, good, bad):
    adapter = TypeAdapter(kind)
    assert [adapter.validate_python(text) for text in good] == good
    for text in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(text)


@given(st.text())
def test_any_text_is_an_address_or_a_mistake_and_never_a_crash(text):
    try:
        address = parse_listen(text)
    except PydanticCustomError:
        return
    assert 0 <= address.port <= 65535
    if ":" in address.host:
        ipaddress.IPv6Address(address.host)


@given(st.text(), st.sampled_from(["http://", "https://", ""]))
def test_any_text_is_a_url_or_a_mistake_and_never_a_crash(text, scheme):
    try:
        url = TypeAdapter(BaseUrl).validate_python(scheme + text)
    except ValidationError:
        return
    assert TypeAdapter(BaseUrl).validate_python(url) == url
