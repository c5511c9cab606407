"""Requests of /v1/messages and /v1/responses become the chat request that vLLM makes of them."""

from hypothesis import given
from recorded_json import JSON

from exporter.model.recorded import Api
from exporter.recording.as_chat import as_chat

TOOL = {"name": "f", "description": "d", "parameters": {"type": "object"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def messages(body, api):
    return as_chat({"model": "m", **body}, api)["messages"]


def test_a_message_with_thinking_text_and_a_call_is_one_answer():
    blocks = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "t"},
        {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
    ]
    body = {"system": "s", "messages": [{"role": "assistant", "content": blocks}]}
    answer = {"role": "assistant", "reasoning": "hm", "tool_calls": [CALL], "content": "t"}
    assert messages(body, Api.MESSAGES) == [{"role": "system", "content": "s"}, answer]


def test_results_of_tools_come_before_the_text_of_their_message():
    result = [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]
    blocks = [
        {"type": "text", "text": "go on"},
        {"type": "tool_result", "tool_use_id": "c", "content": result},
        {"type": "tool_result", "tool_use_id": "d", "content": "3"},
    ]
    assert messages({"messages": [{"role": "user", "content": blocks}]}, Api.MESSAGES) == [
        {"role": "tool", "tool_call_id": "c", "content": "1\n2"},
        {"role": "tool", "tool_call_id": "d", "content": "3"},
        {"role": "user", "content": "go on"},
    ]


def test_the_attribution_block_of_a_system_prompt_is_left_out_as_vllm_does():
    blocks = [
        {"type": "text", "text": "x-anthropic-billing-header: cch=1;"},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    body = {"system": blocks, "messages": [{"role": "user", "content": "q"}]}
    assert messages(body, Api.MESSAGES)[0] == {"role": "system", "content": "ab"}


def test_items_of_one_answer_are_one_message():
    items = [
        {"role": "user", "content": "q"},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "3"},
    ]
    assert messages({"instructions": "s", "input": items}, Api.RESPONSES) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "reasoning": "hm", "content": "t", "tool_calls": [CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "c"},
    ]


def test_tools_of_every_api_have_one_form():
    of_messages = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
    talk = [{"role": "user", "content": "q"}]
    chat = {"type": "function", "function": TOOL}
    assert as_chat({"messages": talk, "tools": [of_messages]}, Api.MESSAGES)["tools"] == [chat]
    body = {"input": "q", "tools": [{"type": "function", **TOOL}]}
    assert as_chat(body, Api.RESPONSES)["tools"] == [chat]


def test_the_effort_of_each_api_is_that_of_the_template():
    talk = {"messages": [{"role": "user", "content": "q"}]}
    off = as_chat({**talk, "thinking": {"type": "disabled"}}, Api.MESSAGES)
    high = as_chat({"input": "q", "reasoning": {"effort": "high"}}, Api.RESPONSES)
    assert (off["reasoning_effort"], high["reasoning_effort"]) == ("none", "high")


@given(JSON)
def test_any_list_of_messages_or_items_becomes_a_chat(content):
    for api, key in ((Api.MESSAGES, "messages"), (Api.RESPONSES, "input")):
        chat = as_chat({key: [{"role": "user", "content": content}]}, api)
        assert isinstance(chat["messages"], list)
