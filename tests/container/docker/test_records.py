"""Docker's JSON in our words, from answers that a Docker Engine 26.1 gave."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.container.decide.records import ContainerStatus, LogLine, PullProgress
from exporter.container.docker.records import (
    PullCounter,
    event_from,
    log_line_from,
    snapshot_from,
    unix_time,
)

INSPECT = {
    "Id": "aa15aa18a6f7",
    "Name": "/vllm",
    "Image": "sha256:e088ebe6",
    "RestartCount": 0,
    "State": {
        "Status": "exited",
        "OOMKilled": True,
        "ExitCode": 137,
        "Error": "",
        "StartedAt": "2026-11-24T20:21:57.678067499Z",
        "FinishedAt": "2026-11-24T20:21:57.729181991Z",
    },
    "Config": {"Image": "vllm/vllm-openai:v0.32.0", "Labels": {"a": "b"}, "Tty": False},
    "NetworkSettings": {
        "Ports": {
            "8000/tcp": [
                {"HostIp": "::1", "HostPort": "18002"},
                {"HostIp": "127.0.0.1", "HostPort": "18001"},
            ],
            "9000/tcp": None,
            "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
        }
    },
}


def inspect_with(**state):
    answer = copy.deepcopy(INSPECT)
    answer["State"] |= state
    return answer


def test_a_snapshot_says_what_inspect_says():
    seen = snapshot_from(INSPECT)
    assert (seen.id, seen.name) == ("aa15aa18a6f7", "vllm")
    assert (seen.image, seen.image_id) == ("vllm/vllm-openai:v0.32.0", "sha256:e088ebe6")
    assert (seen.status, seen.exit_code, seen.oom_killed) == (ContainerStatus.EXITED, 137, True)
    assert seen.finished_time - seen.started_time == pytest.approx(0.051114, abs=1e-5)
    assert seen.labels == {"a": "b"}


def test_the_address_in_each_network_is_ipv4_where_there_is_one():
    answer = copy.deepcopy(INSPECT)
    answer["NetworkSettings"]["Networks"] = {
        "models": {"IPAddress": "172.20.0.7", "GlobalIPv6Address": "fd00::7"},
        "six": {"IPAddress": "", "GlobalIPv6Address": "fd00::8"},
        "host": {"IPAddress": "", "GlobalIPv6Address": ""},
    }
    assert snapshot_from(answer).networks == {
        "models": "172.20.0.7",
        "six": "fd00::8",
        "host": "",
    }
    assert snapshot_from(INSPECT).networks == {}


def test_a_published_port_is_the_ipv4_one_and_tcp():
    assert snapshot_from(INSPECT).published_ports == {8000: ("127.0.0.1", 18001)}


@pytest.mark.parametrize("status", ["created", "running", "paused"])
def test_what_did_not_end_has_no_exit_code(status):
    # Docker writes 0 for what runs and 128 for what it could not start.
    seen = snapshot_from(inspect_with(Status=status, ExitCode=128, FinishedAt=NEVER))
    assert seen.exit_code is None
    assert seen.finished_time is None


NEVER = "0001-01-01T00:00:00Z"


def test_an_exit_with_code_0_is_an_exit():
    assert snapshot_from(inspect_with(ExitCode=0)).exit_code == 0


def test_a_container_without_labels_or_ports_has_none():
    answer = copy.deepcopy(INSPECT)
    answer["Config"]["Labels"] = None
    answer["NetworkSettings"]["Ports"] = None
    seen = snapshot_from(answer)
    assert (seen.labels, seen.published_ports) == ({}, {})


def test_a_status_that_docker_does_not_have_is_an_error_and_no_guess():
    with pytest.raises(ValueError, match="dancing"):
        snapshot_from(inspect_with(Status="dancing"))


def event(action, **attributes):
    return {
        "status": action,
        "id": "aa15",
        "Type": "container",
        "Action": action,
        "Actor": {"ID": "aa15", "Attributes": {"image": "i", "name": "vllm", **attributes}},
        "scope": "local",
        "time": 1795552170,
        "timeNano": 1795552170166293000,
    }


def test_an_event_names_its_container_and_what_happened():
    died = event_from(event("die", exitCode="0"))
    assert (died.action, died.name) == ("die", "vllm")


def test_an_event_about_something_else_is_none():
    assert event_from({"Type": "network", "Action": "connect"}) is None


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1)))  # noqa: DTZ001 - as Docker's, in UTC
def test_a_time_keeps_its_microseconds(when):
    utc = when.replace(tzinfo=UTC)
    # Go drops trailing zeros and writes up to nine decimals.
    for stamp in (f"{when:%Y-%m-%dT%H:%M:%S.%f}Z", f"{when:%Y-%m-%dT%H:%M:%S.%f}123Z"):
        assert unix_time(stamp) == pytest.approx(utc.timestamp(), abs=1e-6)


@pytest.mark.parametrize("decimals", ["", ".1", ".12", ".1234", ".12345678", ".123456789"])
def test_a_time_may_have_any_number_of_decimals(decimals):
    base = datetime(2026, 11, 24, 20, 21, 57, tzinfo=UTC).timestamp()
    assert unix_time(f"2026-11-24T20:21:57{decimals}Z") == pytest.approx(
        base + float(f"0{decimals}" if decimals else 0), abs=1e-6
    )


def test_a_log_line_is_its_time_and_its_text():
    line = log_line_from(b"2026-11-24T20:21:57.5Z INFO  two  spaces \xff\r")
    assert line == LogLine(unix_time("2026-11-24T20:21:57.5Z"), "INFO  two  spaces \ufffd")


def test_an_empty_line_stays_empty():
    assert log_line_from(b"2026-11-24T20:21:57.5Z ").text == ""


@pytest.mark.parametrize("line", [b"", b"no time", b"0001-01-01T00:00:00Z text", b"\xff x"])
def test_a_line_without_a_time_is_an_error(line):
    with pytest.raises(ValueError, match=r".+"):
        log_line_from(line)


def test_a_pull_is_the_sum_of_its_layers():
    counters = PullCounter()
    told = [
        counters.add(line)
        for line in (
            {"status": "Pulling from vllm/vllm-openai", "id": "v0.32.0"},
            {"status": "Already exists", "progressDetail": {}, "id": "l1"},
            {"status": "Pulling fs layer", "progressDetail": {}, "id": "l2"},
            {"status": "Waiting", "progressDetail": {}, "id": "l3"},
            {"status": "Downloading", "progressDetail": {"current": 10, "total": 100}, "id": "l2"},
            {"status": "Downloading", "progressDetail": {"current": 5, "total": 50}, "id": "l3"},
            {"status": "Download complete", "progressDetail": {}, "id": "l2"},
            {"status": "Extracting", "progressDetail": {"current": 1, "total": 7}, "id": "l2"},
            {"status": "Pull complete", "progressDetail": {}, "id": "l2"},
            {"status": "Digest: sha256:0f"},
        )
    ]
    assert told == [
        None,
        PullProgress(1, 1, 0, 0),
        PullProgress(1, 2, 0, 0),
        PullProgress(1, 3, 0, 0),
        PullProgress(1, 3, 10, 100),
        PullProgress(1, 3, 15, 150),
        PullProgress(1, 3, 105, 150),
        PullProgress(1, 3, 105, 150),
        PullProgress(2, 3, 105, 150),
        None,
    ]


LAYER_LINE = st.fixed_dictionaries(
    {
        "status": st.sampled_from(
            ["Pulling fs layer", "Downloading", "Download complete", "Extracting", "Pull complete"]
        ),
        "id": st.sampled_from(["a", "b", "c"]),
    },
    optional={
        "progressDetail": st.integers(1, 100).flatmap(
            lambda total: st.fixed_dictionaries(
                {"current": st.integers(0, total), "total": st.just(total)}
            )
        )
    },
)


@given(st.lists(LAYER_LINE))
def test_a_pull_is_never_more_than_whole(lines):
    counters = PullCounter()
    for line in lines:
        progress = counters.add(line)
        assert 0 <= progress.bytes_done <= progress.bytes_total
        assert 0 <= progress.layers_done <= progress.layers <= 3
