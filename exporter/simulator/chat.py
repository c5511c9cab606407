"""POST /v1/chat/completions, streamed or whole, in the shapes of vLLM 0.32.0."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from exporter.simulator import answers, faults, requests, tokens, wire
from exporter.simulator.settings import VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from exporter.simulator.answers import Answer
    from exporter.simulator.engine import Engine
    from exporter.simulator.requests import ChatRequest
    from exporter.simulator.scheduler import Job, Rank

FINGERPRINT = f"vllm-simulator-{VERSION}"
# What a stream says when vLLM's engine process was killed under it (seen on 0.32.0).
_ENGINE_DEAD = requests.error_body(
    "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    500,
    "InternalServerError",
)
_EVENT_STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Chat:
    """One request on its way: what was asked, what will be answered, and where it runs."""

    engine: Engine
    request: ChatRequest
    prompt_ids: list[int]
    answer: Answer
    rank: Rank
    job: Job
    id: str
    created: int

    @property
    def shows_ids(self) -> bool:
        hidden = self.engine.faults.get(faults.NoTokenIds) is not None
        return bool(self.request.return_token_ids) and not hidden

    def logprobs(self, ids: Sequence[int]) -> dict[str, Any] | None:
        """What is said of each generated token where a request asks for it; all are certain."""
        if not self.request.logprobs:
            return None
        as_ids = bool(self.request.return_tokens_as_token_ids)
        entries = [
            {
                "token": f"token_id:{one}" if as_ids else tokens.decode([one]),
                "logprob": 0.0,
                "bytes": list(tokens.to_bytes(one)),
                "top_logprobs": [],
            }
            for one in ids
        ]
        return {"content": entries}


class Cut(Exception):  # noqa: N818 - not an error, the end that a fault asked for
    """The connection is to end here."""


async def chat_completions(engine: Engine, http: web.Request) -> web.StreamResponse:
    """Answer a chat request; a client that goes away frees its request in the engine."""
    failing = engine.faults.take(faults.Errors)
    if failing is not None:
        error = requests.error_body("Internal server error", failing.status, "InternalServerError")
        return wire.answer(error, failing.status)
    body = requests.parse_json(await http.read(), http.headers.get("Content-Type", ""))
    request = requests.parse_chat(body)
    requests.check_model(request.model, engine.settings.model)
    if request.logprobs and engine.faults.get(faults.NoLogprobs) is not None:
        raise requests.WireError("logprobs are not supported here")
    chat = _begin(engine, request)
    try:
        if request.stream:
            return await _stream(chat, http)
        return await _whole(chat)
    except Cut:
        if http.transport is not None:
            http.transport.abort()
        raise asyncio.CancelledError from None
    finally:
        chat.rank.abort(chat.job)


def _begin(engine: Engine, request: ChatRequest) -> Chat:
    messages = [message.model_dump(exclude_none=True) for message in request.messages]
    tools = [tool.model_dump() for tool in request.tools] if request.tools else None
    forced = _forced_tool(engine, request, tools)
    prompt_ids = engine.encode_chat(messages, tools)
    limits = requests.limits(request, len(prompt_ids), engine.max_model_len)
    answer = answers.plan(
        prompt_ids,
        answers.Wish(
            max_tokens=limits.max_tokens,
            usual_tokens=engine.settings.answer_tokens,
            stop=limits.stop,
            ignore_eos=request.ignore_eos,
            seed=_sampling_seed(request),
            forced_tool=forced,
            named_tool=isinstance(request.tool_choice, dict),
        ),
    )
    rank, job = engine.submit(
        prompt_ids, answer, salt=request.cache_salt, max_tokens=limits.max_tokens
    )
    return Chat(
        engine=engine,
        request=request,
        prompt_ids=prompt_ids,
        answer=answer,
        rank=rank,
        job=job,
        id=f"chatcmpl-{secrets.token_hex(8)}",
        created=int(engine.clock.time()),
    )


def _sampling_seed(request: ChatRequest) -> str | None:
    """None for a greedy request: then only the prompt decides."""
    if request.temperature == 0:
        return None
    return str(request.seed) if request.seed is not None else secrets.token_hex(8)


def _forced_tool(
    engine: Engine, request: ChatRequest, tools: list[dict[str, Any]] | None
) -> dict[str, Any] | None:
    """The function that `tool_choice` makes the model call; with "auto" it never calls one."""
    choice = request.tool_choice
    if not tools or choice in (None, "none"):
        return None
    if choice == "auto":
        if not engine.settings.enable_auto_tool_choice:
            raise requests.WireError(
                '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'
                " to be set"
            )
        return None
    functions: list[dict[str, Any]] = [tool["function"] for tool in tools]
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        return next(function for function in functions if function.get("name") == name)
    return functions[0]


async def _whole(chat: Chat) -> web.Response:
    step = await chat.job.progress.get()
    while not step.last:
        step = await chat.job.progress.get()
    emitted, aborted = step.tokens, step.aborted
    answer = chat.answer
    if aborted:
        deltas = [delta for delta in answer.deltas[:emitted] if delta]
        content: str | None = "".join(delta.get("content") or "" for delta in deltas)
    else:
        content = answer.content
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    if answer.tool_calls and not aborted:
        message["tool_calls"] = list(answer.tool_calls)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": chat.logprobs(answer.token_ids[:emitted]),
        "finish_reason": "abort" if aborted else answer.finish_reason,
        "stop_reason": None if aborted else answer.stop_reason,
        "token_ids": list(answer.token_ids[:emitted]) if chat.shows_ids else None,
        "routed_experts": None,
    }
    body = {
        "id": chat.id,
        "object": "chat.completion",
        "created": chat.created,
        "model": chat.engine.settings.model,
        "choices": [choice],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": _usage(chat, emitted) | {"prompt_tokens_details": _whole_details(chat)},
        "prompt_logprobs": None,
        "prompt_token_ids": chat.prompt_ids if chat.shows_ids else None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }
    return wire.answer(body)


async def _stream(chat: Chat, http: web.Request) -> web.StreamResponse:
    """Send chunks as the engine gives out tokens; the headers go out at once, as vLLM's do."""
    response = web.StreamResponse(headers=_EVENT_STREAM)
    await response.prepare(http)
    cut = chat.engine.faults.take(faults.CutStream)
    broken = chat.engine.faults.take(faults.StreamError)
    sent = 0
    async with aclosing(_chunks(chat)) as chunks:
        async for chunk in chunks:
            if cut is not None and sent >= cut.after_chunks:
                raise Cut
            if broken is not None and sent >= broken.after_chunks:
                await _send(response, _ENGINE_DEAD)
                break
            await _send(response, chunk)
            sent += 1
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _send(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(f"data: {wire.dump(chunk)}\n\n".encode())


async def _chunks(chat: Chat) -> AsyncGenerator[dict[str, Any], None]:
    options = chat.request.stream_options
    hidden = chat.engine.faults.get(faults.NoUsage) is not None
    usage_wanted = options is not None and bool(options.include_usage) and not hidden
    continuous = usage_wanted and options is not None and bool(options.continuous_usage_stats)
    emitted, last = 0, False
    while not last:
        step = await chat.job.progress.get()
        last, aborted = step.last, step.aborted
        if emitted == 0:
            yield _role_chunk(chat, continuous=continuous)
        new = chat.answer.token_ids[emitted : step.tokens]
        delta = {"content": ""} if aborted else chat.answer.deltas[step.tokens - 1]
        emitted = step.tokens
        if delta is None:
            # Part of a tool call with nothing to show: sent only to carry ids or the end.
            if not last and not chat.shows_ids:
                continue
            delta = {}
        choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": chat.logprobs(new)}
        if last:
            choice["finish_reason"] = "abort" if aborted else chat.answer.finish_reason
            choice["stop_reason"] = None if aborted else chat.answer.stop_reason
        else:
            choice["finish_reason"] = None
        choice["token_ids"] = list(new) if chat.shows_ids else None
        chunk = _chunk(chat, [choice])
        if last and not usage_wanted:
            chunk["system_fingerprint"] = FINGERPRINT
        if continuous:
            chunk["usage"] = _usage(chat, emitted)
        yield chunk
    if usage_wanted:
        yield _usage_chunk(chat, emitted)


def _role_chunk(chat: Chat, *, continuous: bool) -> dict[str, Any]:
    choice = {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    chunk = _chunk(chat, [choice])
    if continuous:
        chunk["usage"] = _usage(chat, 0)
    chunk["prompt_token_ids"] = chat.prompt_ids if chat.shows_ids else None
    chunk["prompt_text"] = None
    return chunk


def _usage_chunk(chat: Chat, emitted: int) -> dict[str, Any]:
    usage = _usage(chat, emitted)
    del usage["completion_tokens_details"]  # vLLM leaves out what is null in this chunk
    if chat.engine.usage_details:
        usage["prompt_tokens_details"] = _details(chat)
    return _chunk(chat, []) | {"usage": usage, "system_fingerprint": FINGERPRINT}


def _chunk(chat: Chat, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": chat.id,
        "object": "chat.completion.chunk",
        "created": chat.created,
        "model": chat.engine.settings.model,
        "choices": choices,
    }


def _usage(chat: Chat, emitted: int) -> dict[str, Any]:
    prompt = len(chat.prompt_ids)
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + emitted,
        "completion_tokens": emitted,
        "completion_tokens_details": None,
    }


def _details(chat: Chat) -> dict[str, Any]:
    return {"cached_tokens": chat.job.cached, "created_cache_tokens": chat.job.created}


def _whole_details(chat: Chat) -> dict[str, Any] | None:
    if not chat.engine.usage_details:
        return None
    return _details(chat) | {"multimodal_tokens": None}


def tokenize(engine: Engine, body: object) -> dict[str, Any]:
    """POST /tokenize: the ids of a prompt, or of messages by the chat template."""
    request = requests.parse(requests.TokenizeRequest, body)
    if request.prompt is None and request.messages is None:
        missing = {"type": "missing", "msg": "Field required", "input": body}
        raise requests.invalid(
            [{**missing, "loc": ("body", name)} for name in ("prompt", "messages")]
        )
    requests.check_model(request.model, engine.settings.model)
    if request.messages is not None:
        ids = engine.encode_chat(
            [message.model_dump(exclude_none=True) for message in request.messages],
            [tool.model_dump() for tool in request.tools] if request.tools else None,
            generation_prompt=request.add_generation_prompt,
        )
    else:
        ids = tokens.encode(request.prompt or "")
    return {
        "count": len(ids),
        "max_model_len": engine.max_model_len,
        "tokens": ids,
        "token_strs": tokens.strings(ids) if request.return_token_strs else None,
    }
