"""Scenarios made from logged requests: what is understood, what is left out, what is said."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import ScenarioError
from exporter.scenario.file import parse_json
from exporter.scenario.imported.conversations import conversations
from exporter.scenario.imported.log import requests_of

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
SYSTEM, ASK, MORE = (
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q"},
    {"role": "user", "content": "and?"},
)
SAY, AGAIN = {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}
TALK = [SYSTEM, ASK, SAY, MORE]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def found(*records):
    return conversations(requests_of("\n".join(json.dumps(one) for one in records), "log"))


def only(*records):
    (one,) = found(*records)
    parse_json(one.scenario("x"), "scenario", "x")
    return one


def test_a_request_body_loses_what_is_no_part_of_the_prompt():
    one = only({"model": "m", "messages": TALK, "tools": [TOOL], "temperature": 0, "stream": True})
    assert (one.messages, one.tools) == (TALK, [TOOL])
    assert one.changed == {"temperature of a request": 1}
    assert one.turns == 2


ANSWERED = {"choices": [{"index": 0, "message": AGAIN, "finish_reason": "stop"}]}
BODY = {"model": "m", "messages": TALK, "tools": [TOOL]}


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({**BODY, "response": ANSWERED}, id="a body with its response"),
        pytest.param({"custom_id": "1", "method": "POST", "body": BODY, "response": {
            "status_code": 200, "body": ANSWERED}}, id="a line of a batch"),
        pytest.param({"id": "x", "call_type": "acompletion", "messages": json.dumps(TALK),
            "model_parameters": {"tools": [TOOL]}, "response": json.dumps(ANSWERED)}, id="LiteLLM"),
        pytest.param({"call_type": "x", "proxy_server_request": {"url": "u", "body": BODY},
            "response": ANSWERED}, id="LiteLLM with the proxy's request"),
        pytest.param({"type": "GENERATION", "input": {"messages": TALK, "tools": [TOOL]},
            "output": AGAIN}, id="Langfuse"),
        pytest.param({"type": "GENERATION", "input": TALK, "output": {"content": "b",
            "role": "assistant"}, "modelParameters": {"tools": [TOOL]}}, id="Langfuse, a list"),
        pytest.param({"input": json.dumps({"messages": TALK, "tools": [TOOL]}), "output": "b"},
            id="JSON in strings"),
    ],
)  # fmt: skip
def test_the_records_of_proxies_and_tracers_are_understood(record):
    one = only(record)
    assert one.messages == [*TALK, AGAIN]
    assert one.tools == [TOOL]
    assert one.changed == {}


def test_of_one_request_a_line_the_last_has_the_whole_conversation():
    history = [SYSTEM, ASK, SAY, MORE, AGAIN, ASK]
    one = only(*({"model": "m", "messages": history[:end]} for end in (2, 4, 6)))
    assert (one.messages, one.requests, one.turns) == (history, 3, 3)
    assert (one.first, one.last) == ("line 1", "line 3")


def test_conversations_that_take_turns_are_told_apart():
    other = [SYSTEM, MORE, SAY, ASK]
    log = [TALK[:2], other[:2], TALK, other]
    first, second = found(*({"messages": messages} for messages in log))
    assert (first.messages, second.messages) == (TALK, other)
    assert (first.first, first.last, second.first, second.last) == (
        *("line 1", "line 3", "line 2", "line 4"),
    )


def test_a_history_that_was_rewritten_is_another_conversation():
    rewritten = [{"role": "system", "content": "t"}, *TALK[1:]]
    assert len(found({"messages": TALK}, {"messages": rewritten})) == 2


def test_calls_with_arguments_that_are_objects_become_text():
    langchain = {"id": "c1", "name": "f", "args": {"a": 1}, "type": "tool_call"}
    called = {"role": "ai", "content": "", "tool_calls": [langchain]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "r", "status": "success"}
    one = only({"messages": [{"role": "human", "content": "q"}, called, result, AGAIN]})
    assert one.messages[0] == ASK
    assert one.messages[1]["tool_calls"] == [CALL]
    assert one.messages[2] == {"role": "tool", "tool_call_id": "c1", "content": "r"}
    assert one.changed == {
        "arguments of a call that are no text (written as text)": 1,
        "status of a message": 1,
    }


def test_the_blocks_of_anthropic_become_calls_and_results():
    cached = {"cache_control": {"type": "ephemeral"}}
    thinks = {"type": "thinking", "thinking": "hm", "signature": "x"}
    use = {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}
    result = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "content": [{"type": "text", "text": "r"}],
    }
    one = only(
        {
            "model": "m",
            "max_tokens": 100,
            "system": [{"type": "text", "text": "s", **cached}],
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q", **cached}]},
                {"role": "assistant", "content": [thinks, {"type": "text", "text": "a"}, use]},
                {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
            ],
        }
    )
    assert one.tools == [TOOL]
    assert one.messages == [
        SYSTEM,
        ASK,
        {**SAY, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
        MORE,
    ]
    assert one.changed["a part of type 'thinking'"] == 1
    assert one.changed["max_tokens of a request"] == 1


def test_reasoning_is_kept_and_pictures_and_other_fields_are_counted():
    thought = {**SAY, "reasoning_content": "hm", "thinking_blocks": [{}], "refusal": None}
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    asked = {"role": "user", "content": [{"type": "text", "text": "q"}, picture]}
    one = only({"messages": [asked, thought, {"role": "user", "content": [picture]}, MORE]})
    assert one.messages == [ASK, {**SAY, "reasoning_content": "hm"}, MORE]
    assert one.changed == {
        "a part of type 'image_url'": 2,
        "a message without text": 1,
        "thinking_blocks of a message": 1,
    }


def test_a_history_that_was_cut_loses_results_without_calls_and_a_first_answer():
    lost = {"role": "tool", "tool_call_id": "gone", "content": "r"}
    one = only({"messages": [lost, SAY, ASK, SAY, AGAIN, MORE]})
    assert one.messages == [ASK, {"role": "assistant", "content": "a\nb"}, MORE]
    assert sum(one.changed.values()) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no request"),
        ('{"a": 1}', "has no request"),
        ('{"messages": []}', "has no request"),
        ('{"messages": "Hello"}', "has no request"),
        ('{"model": "m", "messages": [{"role": "user"}]}\nINFO 11-29 Received request', "line 2"),
        ("INFO Received request chatcmpl-1: prompt: 'Hi'", "A log of vLLM holds prompts as text"),
    ],
)
def test_a_log_without_requests_is_refused_in_words(text, said):
    with pytest.raises(ScenarioError, match=said):
        requests_of(text, "log.txt")


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@st.composite
def histories(draw):
    messages = [{"role": "user", "content": draw(texts)}]
    for number in range(draw(st.integers(1, 4))):
        answer = {"role": "assistant", "content": draw(texts)}
        if draw(st.booleans()):
            arguments = json.dumps(draw(st.dictionaries(texts, st.integers(), max_size=2)))
            call = {"id": f"c{number}", "type": "function"}
            answer["tool_calls"] = [{**call, "function": {"name": "f", "arguments": arguments}}]
            result = {"role": "tool", "tool_call_id": f"c{number}", "content": draw(texts)}
            messages += [answer, result]
        else:
            messages += [answer, {"role": "user", "content": draw(texts)}]
    return messages


@given(histories())
def test_the_requests_of_an_agent_give_its_conversation_back(history):
    asked = [
        history[:end]
        for end in range(1, len(history) + 1)
        if history[end - 1]["role"] != "assistant"
    ]
    one = only(*({"messages": messages} for messages in asked))
    assert one.messages == history
    assert one.requests == one.turns == len(asked)
    assert one.changed == {}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["messages", "role", "content", "tool_calls", "body", "input", "type"])
        | st.text(),
        inner,
        max_size=4,
    )
), max_leaves=20))  # fmt: skip
def test_any_json_is_a_scenario_or_a_sentence(value):
    messages = value if isinstance(value, list) else [value]
    record = {"messages": [{"role": "user", "content": each} for each in messages], "output": value}
    for text in (json.dumps(value), json.dumps(record)):
        try:
            for one in conversations(requests_of(text, "log")):
                parse_json(one.scenario("x"), "scenario", "x")
        except ScenarioError:
            continue  # any other exception fails the test


def test_items_of_responses_become_messages():
    items = [
        {"role": "user", "content": "q"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"role": "user", "content": "and?"},
    ]
    one = only({"model": "m", "instructions": "s", "input": items, "store": False})
    assert one.messages == TALK
