"""What a user adds to requests, filled in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.engine.wire.additions import Additions
from exporter.engine.wire.request import RequestContext

SESSION = RequestContext("a1b2", turn=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def escaped(value):
    """The value with the braces of its texts escaped."""
    if isinstance(value, str):
        return value.replace("{", "{{").replace("}", "}}")
    if isinstance(value, dict):
        return {name: escaped(each) for name, each in value.items()}
    return [escaped(each) for each in value] if isinstance(value, list) else value


def test_session_and_turn_are_filled_in_everywhere_in_a_value():
    added = Additions(
        {"X-Session-ID": "s-{session}", "X-Turn": "{turn}"},
        {"metadata": {"of": ["{session}/{turn}", 1], "{turn}": None}},
    )
    assert added.headers_of(SESSION) == {"X-Session-ID": "s-a1b2", "X-Turn": "3"}
    assert added.body_of(SESSION) == {"metadata": {"of": ["a1b2/3", 1], "{turn}": None}}


@given(JSON)
def test_escaped_braces_give_the_text_that_was_meant(value):
    body = {"field": escaped(value)}
    assert Additions(body=body).body_of(SESSION) == {"field": value}
    assert Additions(body=body).body_of(None) == {"field": value}


def test_outside_of_a_session_what_needs_one_is_left_out():
    added = Additions(
        {"X-Session": "{session}", "X-Team": "a {{b}}"}, {"user": ["{turn}"], "priority": 1}
    )
    assert added.headers_of(None) == {"X-Team": "a {b}"}
    assert added.body_of(None) == {"priority": 1}


def test_only_what_changes_a_prompt_goes_to_tokenize():
    added = Additions(
        body={
            "priority": 1,
            "chat_template_kwargs": {"enable_thinking": False, "user": "{session}"},
            "chat_template": "t",
            "reasoning_effort": "low",
            "documents": [{"text": "d"}],
        }
    )
    assert added.rendering_of(SESSION) == {
        "chat_template": "t",
        "chat_template_kwargs": {
            "documents": [{"text": "d"}],
            "reasoning_effort": "low",
            "enable_thinking": False,
            "user": "a1b2",
        },
    }
    assert Additions().rendering_of(SESSION) == {}


def test_the_values_are_not_in_its_text():
    assert "canary" not in repr(Additions({"X-Token": "canary"}, {"field": "canary"}))


def test_a_header_is_the_same_in_any_case():
    assert Additions({"x-request-ID": "1"}).has_header("X-Request-Id")
    assert not Additions({"X-Request": "1"}).has_header("X-Request-Id")
