"""A session while it runs."""

from __future__ import annotations

import io
import re

import pytest
from publish_records import TURNS, turn
from rich.console import Console

from exporter.report.progress import Running, SessionProgress, running_line, turn_line


def progress(
    *, terminal: bool, width: int = 80
) -> tuple[SessionProgress, io.StringIO, list[float]]:
    stream, now = io.StringIO(), [100.0]
    console = Console(file=stream, width=width, force_terminal=terminal, highlight=False)
    return SessionProgress(console, lambda: now[0], 32, False), stream, now


def test_before_the_first_turn_the_line_says_what_it_waits_for():
    assert running_line(Running(10.0), 10.5, 32).endswith(" 0.5 s")


def test_a_turn_waits_then_streams_with_its_time_to_first_token():
    assert running_line(Running(10.0, 3, 8), 10.31, 32) == (
        "turn 3 of 8  waiting for the first token, 0.3 s"
    )
    line = running_line(Running(10.0, 3, 8, chunks=16, first_seconds=0.0425), 11.0, 32)
    assert "━" * 6 + "·" * 6 in line
    assert line.endswith("16 chunks so far, the first after about 42.5 ms")


def test_a_control_is_not_shown_as_the_turn():
    assert "without cache" in running_line(Running(10.0, 3, 8, control=True), 11.0, 32)


def test_more_chunks_than_tokens_fill_the_bar_only():
    assert "━" * 12 + "  " in running_line(
        Running(1.0, 1, 1, chunks=99, first_seconds=1.0), 3.0, 32
    )


def test_the_time_to_first_token_counts_from_the_turns_own_request():
    one, stream, now = progress(terminal=True)
    one.start()
    one.turn_started(2, 8)
    one.request_started(True)
    now[0] += 5.0
    one.token_received(1)
    one.request_started(False)
    now[0] += 0.25
    one.token_received(1)
    now[0] += 9.0
    one.token_received(2)
    one.tick()
    one.stop()
    assert "2 chunks so far, the first after about 250 ms" in stream.getvalue()


@pytest.mark.parametrize("width", [20, 80])
def test_the_line_leaves_room_for_the_echo_of_ctrl_c(width):
    one, stream, now = progress(terminal=True, width=width)
    one.start()
    one.turn_started(12, 12)
    one.request_started(False)
    now[0] += 0.4999
    one.token_received(31)
    one.tick()
    one.stop()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "turn 12 of 12" in shown
    assert max(len(line) for line in re.split(r"[\r\n]", shown)) <= width - 3


def test_on_a_terminal_the_table_grows_and_is_removed_at_the_end():
    one, stream, _ = progress(terminal=True)
    one.start()
    one.turn_started(1, 8)
    one.turn_ended(TURNS[0])
    assert "1,000" in stream.getvalue()
    one.stop()
    assert stream.getvalue().rstrip().endswith("\x1b[2K")  # the last line was erased


def test_without_a_terminal_only_one_line_for_each_turn_is_written():
    one, stream, _ = progress(terminal=False)
    one.start()
    for index, facts in enumerate(TURNS, start=1):
        one.turn_started(index, 8)
        one.request_started(False)
        one.token_received(1)
        one.tick()
        one.turn_ended(facts)
    one.stop()
    assert stream.getvalue().splitlines() == [turn_line(facts, 8) for facts in TURNS]
    assert "256 lost" in turn_line(TURNS[2], 8)


def test_a_line_says_apart_what_was_lost_and_what_the_rule_gives_up():
    both = turn(3, 1500, 1024, 1280, gives_up=32)
    assert "(68.3 %), 224 lost, 32 given up by the engine's rule, first" in turn_line(both, 8)
    assert "given up" not in turn_line(TURNS[2], 8)
