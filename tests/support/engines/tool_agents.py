"""Small agents that call tools, made with the client libraries of OpenAI and Anthropic.

A model of random weights calls no tool in its right mind. So an agent decides on the call itself,
and keeps the text of the model's answer beside it.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import anthropic
    import openai
    from agent_recordings import Agent, Change

Json = dict[str, Any]
_ANSWER_TOKENS = 12


def _unchanged(_number: int, _body: Json) -> None:
    pass


def run_openai_agent(
    client: openai.OpenAI, agent: Agent, turns: int, change: Change = _unchanged
) -> None:
    """Stream `turns` chat completions; `change` edits the body of each (0…)."""
    history = agent.opening()
    for number in range(turns):
        body = {**agent.body(), "messages": copy.deepcopy(history), "tool_choice": "none"}
        change(number, body)
        stream = client.chat.completions.create(
            **body,
            max_tokens=_ANSWER_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
        said = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
        arguments = json.dumps({"path": f"src/{number}.py", "limit": 20})
        function = {"name": "open_file", "arguments": arguments}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        history += [
            {"role": "assistant", "content": said, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": agent.text(30)},
        ]


def run_anthropic_agent(
    client: anthropic.Anthropic, agent: Agent, turns: int, change: Change = _unchanged
) -> None:
    """The same over /v1/messages. `change` gets a body in which the system prompt is a message."""
    opening = agent.opening()
    history = opening[1:]
    for number in range(turns):
        body = {**agent.body(), "messages": copy.deepcopy([opening[0], *history])}
        change(number, body)
        system, *messages = body.pop("messages")
        tools = [
            {
                "name": tool["function"]["name"],
                "description": tool["function"]["description"],
                "input_schema": tool["function"]["parameters"],
            }
            for tool in body.pop("tools")
        ]
        with client.messages.stream(
            **body,
            system=system["content"],
            messages=messages,
            tools=tools,
            tool_choice={"type": "none"},
            max_tokens=_ANSWER_TOKENS,
        ) as stream:
            said = stream.get_final_message()
        use = {"type": "tool_use", "id": f"toolu_{number}", "name": "open_file"}
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": agent.text(30)}
        texts = [{"type": "text", "text": part.text} for part in said.content if part.text]
        history += [
            {"role": "assistant", "content": [*texts, {**use, "input": {"path": f"{number}"}}]},
            {"role": "user", "content": [result]},
        ]
