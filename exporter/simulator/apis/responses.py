"""/v1/responses, as `vllm/entrypoints/openai/responses` of vLLM 0.32.0, without a store."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from exporter.simulator import requests
from exporter.simulator.apis.api import Api, Json, Played
from exporter.simulator.apis.response_stream import Items, events_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

_UNSUPPORTED = "Unsupported input item type: {kind} (parameter=input)"


class _Request(BaseModel):
    """The fields that the simulator uses. vLLM ignores unknown ones too."""

    input: str | list[Json]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = False
    temperature: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    tools: list[Json] = Field(default_factory=list)
    tool_choice: str | Json = "auto"
    cache_salt: Any = None
    enable_response_messages: bool = False
    chat_template_kwargs: Json | None = None


def chat_body(body: Json) -> Json:
    """The chat request of a response (`construct_input_messages`)."""
    asked = requests.parse(_Request, body)
    made: Json = {
        "model": asked.model,
        "messages": _chat_messages(asked),
        "max_tokens": asked.max_output_tokens,
        "temperature": asked.temperature,
        "seed": asked.seed,
        "stop": asked.stop,
        "ignore_eos": asked.ignore_eos,
        "cache_salt": asked.cache_salt,
        "chat_template_kwargs": asked.chat_template_kwargs,
        "return_token_ids": asked.enable_response_messages,
    }
    if asked.tools:
        tools = [{"type": "function", "function": _function(tool)} for tool in asked.tools]
        made |= {"tools": tools, "tool_choice": _choice(asked)}
    if asked.stream:
        made |= {"stream": True, "stream_options": {"include_usage": True}}
    return made


def _function(tool: Json) -> Json:
    return {name: tool[name] for name in ("name", "description", "parameters") if name in tool}


def _choice(asked: _Request) -> Any:
    """As of chat completions. Without --enable-auto-tool-choice vLLM calls none, and says nothing.

    The simulated model calls no tool by itself, so "auto" is the same as "none" here.
    """
    if not isinstance(asked.tool_choice, dict):
        return "none" if asked.tool_choice == "auto" else asked.tool_choice
    name = asked.tool_choice.get("name")
    if name not in [tool.get("name") for tool in asked.tools]:
        raise requests.bad_value(
            "Tool choice 'function' not found in 'tools' parameter.", "tool_choice"
        )
    return {"type": "function", "function": {"name": name}}


def _chat_messages(asked: _Request) -> list[Json]:
    made: list[Json] = []
    if asked.instructions:
        made.append({"role": "system", "content": asked.instructions})
    if isinstance(asked.input, str):
        return [*made, {"role": "user", "content": asked.input}]
    for item in asked.input:
        _add(made, item)
    return made


def _add(made: list[Json], item: Json) -> None:
    """Add an item, to the answer before it where both are of one answer."""
    kind, role = item.get("type"), item.get("role")
    if kind == "function_call":
        answer = made[-1] if made and made[-1]["role"] == "assistant" else _new_answer(made)
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        answer.setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        result = {"tool_call_id": item.get("call_id"), "content": item.get("output")}
        made.append({"role": "tool"} | result)
    elif kind == "reasoning":
        _answer_without(made, "reasoning")["reasoning"] = _first_text(item)
    elif role == "assistant":
        _answer_without(made, "content")["content"] = _first_text(item)
    elif role is not None:
        made.append({"role": role, "content": item.get("content")})
    else:
        raise requests.WireError(_UNSUPPORTED.format(kind=kind), param="input")


def _answer_without(made: list[Json], field: str) -> Json:
    """The answer at the end if it lacks this field, else a new one."""
    last = made[-1] if made else {}
    fits = last.get("role") == "assistant" and last.get(field) is None
    return last if fits else _new_answer(made)


def _new_answer(made: list[Json]) -> Json:
    made.append({"role": "assistant"})
    return made[-1]


def _first_text(item: Json) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    return str(content[0].get("text") or "") if content else ""


def _usage(chat: Played, completion: int, *, reasoning: bool) -> Json:
    """Usage, which has the cached tokens whatever the server's flags are."""
    prompt, job = len(chat.prompt_ids), chat.job
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": job.cached,
            "cache_write_tokens": job.created,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        },
        "output_tokens": completion,
        "output_tokens_details": {
            "reasoning_tokens": completion if reasoning else 0,
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        },
        "total_tokens": prompt + completion,
    }


def response(chat: Played, identity: str, status: str, output: Sequence[Json]) -> Json:
    """The object of a response, with the fields of 0.32.0."""
    asked, incomplete = chat.asked, status == "incomplete"
    tools = asked.get("tools") or []
    made: Json = {
        "id": identity,
        "created_at": chat.created,
        "incomplete_details": {"reason": "max_output_tokens"} if incomplete else None,
        "instructions": asked.get("instructions"),
        "metadata": None,
        "model": chat.model,
        "object": "response",
        "output": list(output),
        "parallel_tool_calls": True,
        "temperature": asked.get("temperature", 1.0),
        "tool_choice": asked.get("tool_choice", "auto") if tools else "none",
        "tools": tools,
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": chat.request.max_tokens,
    }
    nothing = ("max_tool_calls", "previous_response_id", "prompt", "reasoning")
    made |= dict.fromkeys(nothing) | {"service_tier": "auto", "status": status, "text": None}
    made |= {"top_logprobs": None, "truncation": "disabled", "usage": None, "user": None}
    made |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}
    made |= dict.fromkeys(("kv_transfer_params", "ec_transfer_params"))
    return made | dict.fromkeys(("input_messages", "output_messages"))


def _finished(
    chat: Played, identity: str, output: Sequence[Json], finish: str | None, emitted: int
) -> Json:
    """The response at the end of its answer of `emitted` tokens. One aborted is `completed`."""
    status = "incomplete" if finish == "length" else "completed"
    reasoning = any(item["type"] == "reasoning" for item in output)
    made = response(chat, identity, status, output)
    made["usage"] = _usage(chat, emitted, reasoning=reasoning)
    if chat.shows_ids:
        made["input_messages"] = [_raw("", chat.prompt_ids)]
        text = chat.answer.content or ""
        made["output_messages"] = [_raw(text, list(chat.answer.token_ids[:emitted]))]
    return made


def _raw(message: str, ids: list[int]) -> Json:
    return {"message": message, "tokens": ids, "type": "raw_message_tokens"}


def new_id() -> str:
    return f"resp_{secrets.token_hex(8)}"


def whole(chat: Played, answer: Json) -> Json:
    """The response of an answer that is not streamed."""
    choice, items = answer["choices"][0], Items()
    emitted = (answer.get("usage") or {}).get("completion_tokens") or 0
    said = choice["message"]
    calls = [{**call, "index": index} for index, call in enumerate(said.get("tool_calls") or ())]
    for part in ({"reasoning": said.get("reasoning")}, {"content": said.get("content")}):
        list(items.delta(part))
    list(items.delta({"tool_calls": calls}))
    list(items.close())
    return _finished(chat, new_id(), items.done, choice["finish_reason"], emitted)


async def events(chat: Played, chunks: AsyncIterator[Json]) -> AsyncGenerator[str, None]:
    """The events of a streamed response (`responses_stream_generator`)."""
    identity, items, emitted, finish, number = new_id(), Items(), 0, None, 0

    def numbered(found: Iterator[Json]) -> list[str]:
        nonlocal number
        made = list(events_of(found, number))
        number += len(made)
        return made

    begun = response(chat, identity, "in_progress", ())
    for each in numbered(_of(begun, "response.created", "response.in_progress")):
        yield each
    async for chunk in chunks:
        for choice in chunk["choices"]:
            finish = choice.get("finish_reason") or finish
            for each in numbered(items.delta(choice["delta"])):
                yield each
        emitted = (chunk.get("usage") or {}).get("completion_tokens", emitted)
    for each in numbered(items.close()):
        yield each
    last = _finished(chat, identity, items.done, finish, emitted)
    for each in numbered(_of(last, "response.completed")):
        yield each


def _of(made: Json, *kinds: str) -> Iterator[Json]:
    return ({"response": made, "type": kind} for kind in kinds)


API = Api(
    chat_body=chat_body,
    whole=whole,
    events=events,
    last="",
    broken=lambda _error: None,
    refused=lambda error: error,
    limit="max_output_tokens",
    pins_ranks=False,  # `serving.py` of its chats alone reads the header
)
