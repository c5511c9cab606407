"""Docker's framed log and its event lines, however the wire cuts them up."""

from __future__ import annotations

import io
import json
import struct
from datetime import UTC, datetime
from itertools import pairwise

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from exporter.container.decide.records import DockerError, DockerProblem
from exporter.container.docker.errors import translated
from exporter.container.docker.streams import events, log_lines

STAMP = b"2026-11-24T20:21:57.123456789Z "
TIME = datetime(2026, 11, 24, 20, 21, 57, 123456, tzinfo=UTC).timestamp()


def answer(body: bytes) -> requests.Response:
    response = requests.Response()
    response.raw = io.BytesIO(body)
    return response


def frame(text: bytes, output: int = 1) -> bytes:
    payload = STAMP + text
    return struct.pack(">BxxxL", output, len(payload)) + payload


def read(body: bytes, *, terminal: bool = False) -> list[str]:
    return [line.text for line in log_lines(answer(body), terminal=terminal)]


def pieces_of(line: bytes) -> st.SearchStrategy[list[bytes]]:
    """Ways to cut a line that Docker could have chosen."""
    return st.lists(st.integers(0, len(line)), max_size=4).map(
        lambda cuts: [line[start:end] for start, end in pairwise([0, *sorted(cuts), len(line)])]
    )


LINES = st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n\r"), max_size=40))


@given(st.data(), LINES)
def test_a_line_is_whole_however_many_frames_it_came_in(data, lines):
    body = b""
    for line in lines:
        *pieces, last = data.draw(pieces_of(line.encode()))
        body += b"".join(frame(piece) for piece in pieces) + frame(last + b"\n")
    assert read(body) == lines


@given(LINES, LINES, st.randoms())
def test_the_two_outputs_do_not_run_into_each_other(out, err, random):
    frames = [
        [
            f
            for line in lines
            for f in (frame(line[:3].encode(), n), frame(line[3:].encode() + b"\n", n))
        ]
        for n, lines in ((1, [f"o{line}" for line in out]), (2, [f"e{line}" for line in err]))
    ]
    body = b""
    while any(frames):
        body += random.choice([each for each in frames if each]).pop(0)
    read_lines = read(body)
    assert [line[1:] for line in read_lines if line.startswith("o")] == out
    assert [line[1:] for line in read_lines if line.startswith("e")] == err


def test_a_line_has_the_time_of_its_start():
    later = STAMP.replace(b"57.123", b"59.123") + b"b\n"
    body = frame(b"a") + struct.pack(">BxxxL", 1, len(later)) + later
    [line] = log_lines(answer(body), terminal=False)
    assert (line.time, line.text) == (pytest.approx(TIME, abs=1e-6), "ab")


def test_a_container_that_died_within_a_line_shows_what_it_wrote_of_it():
    assert read(frame(b"whole\n") + frame(b"half")) == ["whole", "half"]


def test_a_line_without_an_end_is_given_in_parts():
    body = b"".join(frame(b"x" * 16384) for _ in range(9)) + frame(b"end\n")
    lines = read(body)
    assert "".join(lines) == "x" * 16384 * 9 + "end"
    assert max(len(line) for line in lines) <= 16384 * 5


def test_an_error_of_the_daemon_in_the_stream_is_an_error():
    words = b"error from daemon in stream: the log file is broken"
    body = frame(b"before\n") + struct.pack(">BxxxL", 3, len(words)) + words
    lines = log_lines(answer(body), terminal=False)
    assert next(lines).text == "before"
    with pytest.raises(DockerError, match="the log file is broken") as caught:
        next(lines)
    assert caught.value.problem is DockerProblem.API_ERROR


@given(st.integers(1, len(frame(b"some line\n")) - 1))
def test_a_log_that_ends_within_a_frame_is_no_end(size):
    with pytest.raises(ValueError, match="ends within"):
        read(frame(b"whole\n") + frame(b"some line\n")[:size])


def test_a_frame_of_an_absurd_size_is_not_waited_for():
    with pytest.raises(ValueError, match="a log frame of"):
        read(struct.pack(">BxxxL", 1, 2**31) + b"x")


def test_a_terminals_lines_have_no_frames():
    body = STAMP + b"one\r\n" + STAMP + b"two\r\n" + STAMP + b"rest"
    assert read(body, terminal=True) == ["one", "two", "rest"]


EVENT = {
    "Type": "container",
    "Action": "die",
    "Actor": {"ID": "aa15", "Attributes": {"name": "vllm", "exitCode": "0"}},
    "timeNano": 1795552170166293000,
}


def test_events_are_read_line_by_line_and_others_left_out():
    body = "\n".join(
        json.dumps(each) for each in (EVENT, {"Type": "image", "Action": "pull"}, EVENT)
    )
    assert [each.action for each in events(answer(body.encode()))] == ["die", "die"]


def test_an_event_that_is_not_json_is_an_error():
    with pytest.raises(ValueError, match="Expecting value"):
        list(events(answer(b"<html>\n")))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"[" * 5000, id="nested without end"),
        pytest.param(b'{"Type":"container","Action":"x"}', id="no actor"),
    ],
)
def test_an_event_that_is_none_of_dockers_is_an_error_of_dockers(line):
    with pytest.raises(DockerError) as caught, translated("events"):
        list(events(answer(line + b"\n")))
    assert caught.value.problem is DockerProblem.API_ERROR


def test_the_words_for_a_line_that_is_not_understood_are_short():
    with pytest.raises(DockerError) as caught, translated("log"):
        read(b"x" * 60_000, terminal=True)
    assert len(str(caught.value)) < 400
