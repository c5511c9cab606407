"""Nothing that was sent comes back in an error message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.engine.wire.redaction import page_without, without_sent

KEY = "sk-9f3c2a71b8d04e56"
PROMPT = "Please look at the invoice of customer 4711 and tell me what is odd about it."


def test_a_key_that_is_quoted_is_masked():
    said = without_sent(f"HTTP 401: no such key: Bearer {KEY}, go away", KEY)
    assert said == "HTTP 401: no such key: Bearer ***, go away"


def test_a_key_that_is_quoted_in_part_is_masked():
    assert without_sent(f"HTTP 500: {KEY[:12]}", KEY) == "HTTP 500: ***"
    assert without_sent(f"HTTP 500: …{KEY[5:]}", KEY) == "HTTP 500: …***"


def test_a_short_key_is_masked_where_it_is_whole():
    assert without_sent("the key abc is wrong", "abc") == "the key *** is wrong"


def test_a_conversation_that_is_quoted_is_masked():
    sent = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3}
    said = without_sent(f"HTTP 400: bad input {{'content': '{PROMPT[10:60]}", None, sent)
    assert said == "HTTP 400: bad input {'content': '***"


def test_common_words_are_not_masked():
    said = "HTTP 400: the prompt is longer than the maximum context length of 8192 tokens"
    assert without_sent(said, KEY, [PROMPT, "tell me about the prompt"]) == said


def test_a_page_that_quotes_the_key_is_masked():
    page = f"vllm:x 1\nfor {KEY} only\n".encode()
    assert page_without(page, KEY) == b"vllm:x 1\nfor *** only\n"
    assert page_without(page, None) == page_without(page, "1") == page


@given(
    before=st.text(max_size=60),
    after=st.text(max_size=60),
    prompt=st.text(min_size=30, max_size=200),
    data=st.data(),
)
def test_no_long_run_of_what_was_sent_is_left(before, after, prompt, data):
    start = data.draw(st.integers(0, len(prompt) - 24))
    end = data.draw(st.integers(start + 24, len(prompt)))
    said = without_sent(before + prompt[start:end] + after, None, [prompt])
    pieces = said.split("***")
    assert all(
        piece[at : at + 24] not in prompt for piece in pieces for at in range(len(piece) - 23)
    )


def test_the_value_of_a_header_is_removed_whole_and_in_parts():
    value = "traceparent-4bf92f3577b34da6"
    said = without_sent(f"no route for {value}, nor {value[:14]}", None, None, [value])
    assert said == "no route for ***, nor ***"


def test_a_short_value_of_a_header_is_removed_only_as_a_word():
    assert without_sent("HTTP 471: 7 of 17 (7)", None, None, ["7"]) == "HTTP 471: *** of 17 (***)"
    assert without_sent("gold, golden", None, None, ["gold"]) == "***, golden"


def test_a_page_loses_only_values_of_headers_that_are_no_names():
    page = b'vllm:x{model_name="production",trace="0af7651916cd43dd"} 1'
    assert page_without(page, None, ["production", "0af7651916cd43dd"]) == (
        b'vllm:x{model_name="production",trace="***"} 1'
    )
