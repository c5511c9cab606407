"""The HTTP surface of one simulated server."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from exporter.simulator import chat, metrics, pages, requests, wire
from exporter.simulator.apis import chat_completions, messages, responses
from exporter.simulator.apis.tokenize import tokenize
from exporter.simulator.faults import behaviours, faults
from exporter.simulator.releases import ages
from exporter.simulator.releases.refusals import worded
from exporter.simulator.text import tokens

if TYPE_CHECKING:
    from exporter.simulator.engine import Engine
    from exporter.simulator.faults.fault_fields import Fault

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Faultable(Protocol):
    """The server that faults act on."""

    def check(self, fault: Fault) -> None: ...

    def inject(self, fault: Fault) -> None: ...


_APIS = {
    "/v1/chat/completions": (ages.ALWAYS, chat_completions.API),
    "/v1/messages": (ages.MESSAGES, messages.API),
    "/v1/responses": (ages.RESPONSES, responses.API),
}
_LARGEST_BODY = 64 * 2**20
_SCALING = "The model is currently scaling. Please try again later."
_OK, _BAD_REQUEST, _UNAUTHORIZED, _NOT_FOUND, _UNAVAILABLE = 200, 400, 401, 404, 503


class Routes:
    """The handlers of one server."""

    def __init__(self, engine: Engine, server: Faultable) -> None:
        self._engine = engine
        self._server = server

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[self._gate])
        app.on_response_prepare.append(_name_server)
        get, post = web.get, web.post
        app.add_routes(
            [
                *(post(path, self._play) for path in _APIS),
                post("/v1/messages/count_tokens", self._count),
                get("/v1/models", self._models, allow_head=False),
                get("/health", self._health, allow_head=False),
                get("/ping", self._health, allow_head=False),
                post("/ping", self._health),
                get("/version", self._version, allow_head=False),
                get("/load", self._load, allow_head=False),
                post("/is_scaling_elastic_ep", self._is_scaling),
                get("/metrics", self._metrics, allow_head=False),
                post("/tokenize", self._tokenize),
                post("/detokenize", self._detokenize),
                get("/faults", self._list_faults, allow_head=False),
                post("/faults", self._add_fault),
                web.delete("/faults", self._clear_faults),
                web.delete("/faults/{name}", self._clear_faults),
            ]
        )
        if self._engine.settings.dev_mode:
            app.add_routes(
                [
                    post("/reset_prefix_cache", self._reset),
                    post("/sleep", self._sleep),
                    post("/wake_up", self._wake_up),
                    get("/is_sleeping", self._is_sleeping, allow_head=False),
                    post("/pause", self._pause),
                    post("/resume", self._resume),
                    get("/is_paused", self._is_paused, allow_head=False),
                ]
            )
        return app

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Hang, check the key, and answer errors as vLLM's web framework does."""
        if not request.path.startswith("/faults"):
            await self._engine.http_open()
            if self._engine.faults.get(behaviours.Scaling) is not None:
                return wire.answer({"error": _SCALING}, _UNAVAILABLE)
            if self._behind_a_gateway() and not request.path.startswith("/v1"):
                return wire.answer({"detail": "Not Found"}, _NOT_FOUND)
        if request.path.startswith("/v1") and not self._authorized(request):
            return wire.answer({"error": "Unauthorized"}, _UNAUTHORIZED)
        try:
            return await handler(request)
        except requests.WireError as exc:
            return wire.answer(worded(self._engine.age, exc.body), exc.status)
        except web.HTTPMethodNotAllowed as exc:
            allow = {"Allow": ", ".join(sorted(exc.allowed_methods))}
            detail = {"detail": "Method Not Allowed"}
            return wire.answer(detail, exc.status, allow)
        except web.HTTPNotFound as exc:
            return wire.answer({"detail": "Not Found"}, exc.status)

    def _behind_a_gateway(self) -> bool:
        return self._engine.faults.get(behaviours.OnlyV1) is not None

    def _authorized(self, request: web.Request) -> bool:
        key = self._engine.settings.api_key
        if key is None:
            return True
        given = request.headers.get("Authorization", "")
        return secrets.compare_digest(given.encode(), f"Bearer {key}".encode())

    async def _play(self, request: web.Request) -> web.StreamResponse:
        since, api = _APIS[request.path]
        if self._engine.age not in since:
            raise web.HTTPNotFound
        return await chat.play(self._engine, request, api)

    async def _count(self, request: web.Request) -> web.Response:
        if self._engine.age not in ages.MESSAGES:
            raise web.HTTPNotFound
        try:
            asked = messages.counted_body(requests.an_object(await _json(request)))
            return wire.answer(messages.count(tokenize(self._engine, asked)))
        except requests.WireError as exc:
            return wire.answer(messages.refused(worded(self._engine.age, exc.body)), exc.status)

    async def _models(self, _: web.Request) -> web.Response:
        return wire.answer(pages.models(self._engine))

    async def _health(self, _: web.Request) -> web.Response:
        sick = self._engine.faults.get(faults.Unhealthy) is not None
        return web.Response(status=_UNAVAILABLE if sick else _OK)

    async def _version(self, _: web.Request) -> web.Response:
        return wire.answer(pages.version(self._engine))

    async def _load(self, _: web.Request) -> web.Response:
        return wire.answer({"server_load": 0})  # vLLM's default is 0 too

    async def _is_scaling(self, _: web.Request) -> web.Response:
        return wire.answer({"is_scaling_elastic_ep": False})  # while scaling, 503 as every path

    async def _metrics(self, _: web.Request) -> web.Response:
        page = pages.metrics_page(self._engine)
        return web.Response(body=page, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _tokenize(self, request: web.Request) -> web.Response:
        self._need_tokenizer()
        return wire.answer(tokenize(self._engine, await _json(request)))

    async def _detokenize(self, request: web.Request) -> web.Response:
        self._need_tokenizer()
        asked = requests.parse(requests.DetokenizeRequest, await _json(request))
        requests.check_model(asked.model, *self._engine.models)
        return wire.answer({"prompt": tokens.decode(asked.tokens)})

    def _need_tokenizer(self) -> None:
        if self._engine.faults.get(faults.NoTokenize) is not None:
            raise web.HTTPNotFound

    async def _reset(self, _: web.Request) -> web.Response:
        return wire.answer({"success": self._engine.reset_prefix_cache()})

    async def _sleep(self, request: web.Request) -> web.Response:
        level = 2 if request.query.get("level") == "2" else 1
        self._server.inject(behaviours.Asleep(level))
        return wire.answer({"status": "sleeping", "level": level})

    async def _wake_up(self, _: web.Request) -> web.Response:
        self._engine.clear(behaviours.Asleep)
        return wire.answer({"status": "awake", "tags": None})

    async def _is_sleeping(self, _: web.Request) -> web.Response:
        return wire.answer({"is_sleeping": self._rests()})

    async def _pause(self, _: web.Request) -> web.Response:
        refuses = self._engine.age in ages.REFUSES_PAUSED
        self._server.inject(behaviours.Paused("refused" if refuses else "waits"))
        return wire.answer({"status": "paused"})

    async def _resume(self, _: web.Request) -> web.Response:
        self._engine.clear(behaviours.Paused)
        return wire.answer({"status": "resumed"})

    async def _is_paused(self, _: web.Request) -> web.Response:
        return wire.answer({"is_paused": self._rests()})

    def _rests(self) -> bool:
        """Both are said of an engine that is paused and of one that sleeps, by vLLM 0.32.0."""
        paused = self._engine.faults.get(behaviours.Paused) is not None
        return paused or self._engine.sleep_level > 0

    async def _list_faults(self, _: web.Request) -> web.Response:
        return wire.answer({**self._active(), "available": faults.catalogue()})

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = faults.parse(await _json(request))
            self._server.check(fault)
        except faults.FaultInputError as exc:
            return _refused(exc)
        if not isinstance(fault, (faults.Crash, faults.Restart)):
            self._server.inject(fault)
            return wire.answer(self._active())
        # Answer first, because the act cuts the connection.
        response = wire.answer({**self._active(), "doing": faults.described(fault)})
        await response.prepare(request)
        await response.write_eof()
        self._server.inject(fault)
        return response

    async def _clear_faults(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name")
        if name is not None and name not in faults.KINDS:
            mistake = faults.Mistake("name", name, "one of " + ", ".join(faults.KINDS))
            return _refused(faults.FaultInputError([mistake]), status=_NOT_FOUND)
        self._engine.clear(faults.KINDS[name] if name else None)
        return wire.answer(self._active())

    def _active(self) -> dict[str, Any]:
        return {"active": [faults.described(fault) for fault in self._engine.faults.all()]}


def _refused(error: faults.FaultInputError, status: int = _BAD_REQUEST) -> web.Response:
    listed = [
        {"field": mistake.field, "value": mistake.value, "allowed": mistake.allowed}
        for mistake in error.mistakes
    ]
    return wire.answer({"error": str(error), "mistakes": listed}, status)


async def _json(request: web.Request) -> object:
    return requests.parse_json(await request.read(), request.headers.get("Content-Type", ""))


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "vllm-simulator"
