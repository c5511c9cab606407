"""What is written to different terminals and files."""

from __future__ import annotations

import io

import pytest
from comparison_records import played, with_controls
from hypothesis import given
from hypothesis import strategies as st
from publish_records import EAGLE_TURNS, TURNS, session, turn

from exporter.report.comparison.facts import cold_sides, compare
from exporter.report.comparison.table import comparison_report
from exporter.report.screen import accepts_utf8, console_on
from exporter.report.session.table import turn_table
from exporter.report.session.text import session_report

UTF8 = {"LANG": "de_DE.UTF-8"}


class Stream(io.StringIO):
    """A text stream with a given encoding."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = False) -> None:
        super().__init__()
        self._encoding, self._terminal = encoding, terminal

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("encoding", "environ", "expected"),
    [
        ("utf-8", {}, True),
        ("UTF8", UTF8, True),
        ("ascii", UTF8, False),
        ("iso8859-1", {}, False),
        ("utf-8", {"LC_ALL": "C"}, False),
        ("utf-8", {"LANG": "POSIX"}, False),
        ("utf-8", {"LC_ALL": "", "LANG": "C"}, False),
        ("utf-8", {"LC_ALL": "C.UTF-8", "LANG": "C"}, True),
    ],
)
def test_utf8_is_written_only_if_stream_and_locale_accept_it(encoding, environ, expected):
    assert accepts_utf8(Stream(encoding), environ) is expected


def test_without_utf8_the_whole_report_is_ascii():
    stream = Stream("ascii")
    console = console_on(stream, {"COLUMNS": "160"})
    result = session(*TURNS, turn(4, 1000, None, None), simulated=True)
    console.print(session_report(result, "http://gpu:8000", console, cold=True, interrupted=False))
    page = stream.getvalue()
    assert page.isascii()
    assert "?" not in page.replace(" ? ", " ")  # only the mark of the unknown turn
    assert "# hit - lost . new" in page
    assert "SIMULATED" in page


def test_without_utf8_a_comparison_is_ascii_and_no_line_is_wider_than_the_terminal():
    sessions = [with_controls(played(n)) for n in range(6)]
    stream = Stream("ascii")
    whole = compare(cold_sides("one.json", sessions), interleaved=True, cold=True)
    console_on(stream, {}).print(comparison_report(whole, interrupted=False))
    page = stream.getvalue()
    assert page.isascii()
    assert "?" not in page
    assert "(+/- " in " ".join(page.split())
    assert max(map(len, page.splitlines())) <= 80


def test_without_utf8_what_the_rule_gives_up_has_a_sign_of_its_own():
    stream = Stream("ascii")
    console = console_on(stream, {"COLUMNS": "160"})
    console.print(turn_table(EAGLE_TURNS, width=160, ascii_only=True))
    assert "# hit - lost = rule . new" in stream.getvalue()
    assert "#=." in stream.getvalue()


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_of_an_engine_can_be_written(text):
    stream = Stream("ascii")
    console_on(stream, {}).print(text)
    assert stream.getvalue().isascii()


def test_a_pipe_is_80_columns_unless_columns_says_otherwise():
    assert console_on(Stream(), {}).width == 80
    assert not console_on(Stream(), {}).is_terminal


def test_brackets_in_an_engines_text_are_not_markup():
    stream = Stream()
    console_on(stream, {}).print("[red]no such model[/red] :smile:")
    assert stream.getvalue() == "[red]no such model[/red] :smile:\n"


def test_a_closed_pipe_is_reported_to_the_command():
    class Gone(Stream):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        console_on(Gone(), {}).print("x")
