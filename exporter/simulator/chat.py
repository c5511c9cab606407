"""Plays a chat, streamed or not. shapes.py makes its JSON, apis/ that of the API it came by."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from exporter.simulator import gateway, requests, wire
from exporter.simulator.apis.tokenize import prompt_of
from exporter.simulator.faults import behaviours, faults
from exporter.simulator.releases import ages, shapes
from exporter.simulator.releases.refusals import worded
from exporter.simulator.text import answers, tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from exporter.simulator.apis.api import Api
    from exporter.simulator.engine import Engine
    from exporter.simulator.requests import ChatRequest
    from exporter.simulator.scheduler import Job, Rank
    from exporter.simulator.text.answers import Answer

# The error in a stream whose engine process was killed (seen on 0.32.0).
_ENGINE_DEAD = requests.error_body(
    "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    500,
    "InternalServerError",
)
# The error of a paused engine since 0.33; before, requests wait.
_PAUSED = requests.error_body(
    "Generation is paused. Please retry after it resumes.", 503, "ServiceUnavailableError"
)
_EVENT_STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Chat:
    """One request: its prompt, its planned answer, and the rank that runs it."""

    engine: Engine
    request: ChatRequest
    prompt_ids: list[int]
    answer: Answer
    rank: Rank
    job: Job
    id: str
    created: int
    asked: dict[str, Any]

    @property
    def shows_ids(self) -> bool:
        hidden = self.engine.faults.get(faults.NoTokenIds) is not None
        has_ids = self.engine.age in ages.TOKEN_IDS
        return bool(self.request.return_token_ids) and has_ids and not hidden

    @property
    def model(self) -> str:
        return self.request.model or self.engine.settings.model

    def logprobs(self, ids: Sequence[int]) -> dict[str, Any] | None:
        """The log probabilities of each token, if a request asks for them; all are certain."""
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
    """Raised by a fault to end the connection."""


async def play(engine: Engine, http: web.Request, api: Api) -> web.StreamResponse:
    """Answer a request of an API. A client that disconnects frees its request in the engine."""
    try:
        return await _played(engine, http, api)
    except requests.WireError as exc:
        return wire.answer(api.refused(worded(engine.age, exc.body)), exc.status)


async def _played(engine: Engine, http: web.Request, api: Api) -> web.StreamResponse:
    failing = engine.faults.take(faults.Errors)
    if failing is not None:
        error = requests.error_body("Internal server error", failing.status, "InternalServerError")
        return wire.answer(api.refused(error), failing.status)
    body = requests.parse_json(await http.read(), http.headers.get("Content-Type", ""))
    if strict := engine.faults.get(behaviours.StrictFields):
        requests.refuse_field(body, strict.refused)
    asked = requests.an_object(body)
    request = requests.parse_chat(engine.age, api.chat_body(asked))
    requests.check_model(request.model, *engine.models)
    if request.logprobs and engine.faults.get(faults.NoLogprobs) is not None:
        raise requests.WireError("logprobs are not supported here")
    paused = engine.faults.get(behaviours.Paused)
    if paused is not None and paused.answer != "waits":
        in_stream = paused.answer == "stream_error" and request.stream
        return await _refused(http, api, streamed=in_stream)
    chat = _begin(engine, request, http, asked, api)
    try:
        if request.stream:
            return await _stream(chat, http, api)
        return await _whole(chat, api)
    except (Cut, ConnectionResetError):  # the latter: the client left between two chunks
        if http.transport is not None:
            http.transport.abort()
        raise asyncio.CancelledError from None
    finally:
        chat.rank.abort(chat.job)


async def _refused(http: web.Request, api: Api, *, streamed: bool | None) -> web.StreamResponse:
    """The answer of a paused engine: an HTTP error, or an error in a stream."""
    if not streamed:
        return wire.answer(api.refused(_PAUSED), _PAUSED["error"]["code"])
    response = web.StreamResponse(headers=_EVENT_STREAM)
    await response.prepare(http)
    await _break(response, api, _PAUSED)
    return response


async def _break(response: web.StreamResponse, api: Api, error: dict[str, Any]) -> None:
    """End a stream with an error; raises `Cut` where the API cannot say it."""
    text = api.broken(error)
    if text is None:
        raise Cut
    await response.write(text.encode())
    await response.write_eof()


def _pinned_rank(engine: Engine, http: web.Request) -> int | None:
    """The rank that a header names; None without one, or if this release ignores it."""
    try:
        rank = int(http.headers.get("X-data-parallel-rank", ""))
    except ValueError:
        return None
    if engine.age not in ages.PINNED_RANKS:
        return None
    if not 0 <= rank < len(engine.open_ranks):
        raise requests.WireError(
            f"data_parallel_rank {rank} is out of range [0, {len(engine.open_ranks)})."
        )
    return rank


def _begin(
    engine: Engine,
    request: ChatRequest,
    http: web.Request,
    asked: dict[str, Any],
    api: Api,
) -> Chat:
    pinned = _pinned_rank(engine, http) if api.pins_ranks else None
    tools = [tool.model_dump() for tool in request.tools] if request.tools else None
    forced = _forced_tool(engine, request, tools)
    unused = request.tool_choice in (None, "none")
    left_out = unused and engine.age in ages.TOOLS_LEFT_OUT
    prompt_ids = prompt_of(
        engine,
        request.messages,
        None if left_out else tools,
        variables=request.chat_template_kwargs,
    )
    limits = requests.limits(
        engine.age, request, len(prompt_ids), engine.max_model_len, named=api.limit
    )
    swallowed = engine.faults.get(behaviours.SwallowedIds)
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
            swallowed=0 if swallowed is None else swallowed.tokens,
            all_reasoning=engine.faults.get(behaviours.AllReasoning) is not None,
        ),
    )
    rank, job = engine.submit(
        prompt_ids,
        answer,
        salt=_cache_salt(engine, request),
        max_tokens=limits.max_tokens,
        rank=pinned,
    )
    return Chat(
        engine=engine,
        request=request,
        prompt_ids=prompt_ids,
        answer=answer,
        rank=rank,
        job=job,
        id=f"chatcmpl-{http.headers.get('X-Request-Id') or secrets.token_hex(8)}",
        created=int(engine.clock.time()),
        asked=asked,
    )


def _sampling_seed(request: ChatRequest) -> str | None:
    """The seed; None for a greedy request, where only the prompt decides."""
    if request.temperature == 0:
        return None
    return str(request.seed) if request.seed is not None else secrets.token_hex(8)


def _forced_tool(
    engine: Engine, request: ChatRequest, tools: list[dict[str, Any]] | None
) -> dict[str, Any] | None:
    """The function that `tool_choice` names; with "auto" the model calls none."""
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


async def _whole(chat: Chat, api: Api) -> web.Response:
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
    age = chat.engine.age
    reasoning = None if aborted else answer.reasoning
    calls = () if aborted else answer.tool_calls
    ids = shapes.Ids(
        prompt=chat.prompt_ids if chat.shows_ids else None,
        answer=answer.token_ids[:emitted] if chat.shows_ids else None,
    )
    choice = shapes.whole_choice(
        age,
        shapes.message(age, content, reasoning, calls),
        chat.logprobs(answer.token_ids[:emitted]),
        _end(chat, aborted=aborted),
        ids,
    )
    used = shapes.usage(age, len(chat.prompt_ids), emitted)
    used = gateway.usage(
        chat.engine, shapes.whole_usage(age, used, gateway.details(chat.engine, chat.job))
    )
    head = _head(chat, "chat.completion")
    body = api.whole(chat, head | shapes.whole(age, choice, used, ids))
    return wire.answer(gateway.edited(chat.engine, body))


def _head(chat: Chat, kind: str) -> dict[str, Any]:
    return {"id": chat.id, "object": kind, "created": chat.created, "model": chat.model}


def _end(chat: Chat, *, aborted: bool) -> shapes.End:
    answer = chat.answer
    return (
        shapes.End("abort", None)
        if aborted
        else shapes.End(answer.finish_reason, answer.stop_reason)
    )


async def _stream(chat: Chat, http: web.Request, api: Api) -> web.StreamResponse:
    """Stream events as the engine generates tokens. The headers go out at once, as in vLLM."""
    response = web.StreamResponse(headers=_EVENT_STREAM)
    await response.prepare(http)
    cut = chat.engine.faults.take(faults.CutStream)
    broken = chat.engine.faults.take(faults.StreamError)
    sent = 0
    async with aclosing(_chunks(chat)) as chunks, aclosing(api.events(chat, chunks)) as events:
        async for event in events:
            if cut is not None and sent >= cut.after_chunks:
                raise Cut
            if broken is not None and sent >= broken.after_chunks:
                await _break(response, api, _ENGINE_DEAD)
                return response
            await response.write(event.encode())
            sent += 1
    await response.write(api.last.encode())
    await response.write_eof()
    return response


async def _chunks(chat: Chat) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(_plain_chunks(chat)) as chunks:
        async for chunk in chunks:
            yield gateway.edited(chat.engine, chunk)


async def _plain_chunks(chat: Chat) -> AsyncGenerator[dict[str, Any], None]:
    engine, options = chat.engine, chat.request.stream_options
    age, head = engine.age, _head(chat, "chat.completion.chunk")
    hidden = engine.faults.get(faults.NoUsage) is not None
    usage_wanted = options is not None and bool(options.include_usage) and not hidden
    continuous = usage_wanted and options is not None and bool(options.continuous_usage_stats)
    swallows = engine.faults.get(behaviours.SwallowedIds) is not None
    emitted, last = 0, False

    def used() -> dict[str, Any]:
        return shapes.usage(age, len(chat.prompt_ids), emitted)

    while not last:
        step = await chat.job.progress.get()
        last, aborted = step.last, step.aborted
        if emitted == 0:
            first = head | shapes.role_chunk(age, chat.prompt_ids if chat.shows_ids else None)
            yield first | ({"usage": used()} if continuous else {})
        new = chat.answer.token_ids[emitted : step.tokens]
        delta = {"content": ""} if aborted else chat.answer.deltas[step.tokens - 1]
        emitted = step.tokens
        if delta is None:
            # Part of a tool call with nothing to show: sent only to carry ids or the end.
            if not last and (swallows or not chat.shows_ids):
                continue
            delta = {}
        end = _end(chat, aborted=aborted) if last else None
        shown = new if chat.shows_ids else None
        chunk = head | shapes.step_chunk(age, delta, chat.logprobs(new), end, shown)
        if last and not usage_wanted and (mark := shapes.fingerprint(age)):
            chunk["system_fingerprint"] = mark
        yield chunk | ({"usage": used()} if continuous else {})
    if usage_wanted:
        yield head | {"choices": []} | _usage_chunk(chat, used())


def _usage_chunk(chat: Chat, used: dict[str, Any]) -> dict[str, Any]:
    used.pop("completion_tokens_details", None)  # vLLM leaves out nulls in this chunk
    details = gateway.details(chat.engine, chat.job)
    if details is not None:
        used["prompt_tokens_details"] = details
    mark = shapes.fingerprint(chat.engine.age)
    chunk = {"usage": gateway.usage(chat.engine, used)}
    return chunk if mark is None else chunk | {"system_fingerprint": mark}


def _cache_salt(engine: Engine, request: ChatRequest) -> str | None:
    """What keeps cached prefixes apart: as in vLLM, the salt and an adapter's name."""
    adapter = request.model if request.model in engine.models[1:] else None
    return request.cache_salt if adapter is None else f"{adapter} {request.cache_salt or ''}"
