"""The JSON API: sessions and targets, as they are known now."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from aiohttp import web

from exporter.notices import ADVICE, FAILURE_ADVICE
from exporter.publish.cost_view import cost_json
from exporter.session_json import failure_json, rfc3339, session_json

if TYPE_CHECKING:
    from exporter.container.records import ContainerView
    from exporter.model import EngineView, SessionResult
    from exporter.publish.api_shape import (
        ContainerJson,
        EngineJson,
        SessionsJson,
        TargetFailureJson,
        TargetJson,
        TargetsJson,
    )
    from exporter.publish.history import History
    from exporter.publish.metrics import Metrics
    from exporter.publish.state import TargetState


MAX_LIMIT = 1000


class BadQueryError(Exception):
    """A query parameter is not what it must be; the text says which, and what is allowed."""


def routes(metrics: Metrics, history: History) -> list[web.RouteDef]:
    async def sessions(request: web.Request) -> web.Response:
        try:
            target, limit = _session_query(request, metrics)
        except BadQueryError as exc:
            return web.json_response({"error": str(exc)}, status=400)
        found = history.sessions(target, limit)
        answer: SessionsJson = {"sessions": [session_json(result) for result in found]}
        return web.json_response(answer)

    async def targets(request: web.Request) -> web.Response:
        try:
            _only(request, set())
        except BadQueryError as exc:
            return web.json_response({"error": str(exc)}, status=400)
        answer: TargetsJson = {
            "targets": [target_json(state) for state in metrics.targets.values()]
        }
        return web.json_response(answer)

    async def openapi(_request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(_description))

    return [
        web.get("/api/v1/sessions", sessions),
        web.get("/api/v1/targets", targets),
        web.get("/api/v1/openapi.json", openapi),
    ]


def _description() -> dict[str, object]:
    # Few ever ask for it, and pydantic takes its time to make it.
    from exporter.publish.api_description import description  # noqa: PLC0415 - see above

    return description()


def _session_query(request: web.Request, metrics: Metrics) -> tuple[str | None, int | None]:
    _only(request, {"target", "limit"})
    target = request.query.get("target")
    if target is not None and target not in metrics.targets:
        known = ", ".join(metrics.targets) or "none"
        raise BadQueryError(f"target: there is no target {target!r}; there are: {known}")
    limit = request.query.get("limit")
    if limit is None:
        return target, None
    if not re.fullmatch("[0-9]{1,4}", limit) or not 1 <= int(limit) <= MAX_LIMIT:
        raise BadQueryError(f"limit: {limit!r} is not a whole number from 1 to {MAX_LIMIT}")
    return target, int(limit)


def _only(request: web.Request, allowed: set[str]) -> None:
    names = sorted(set(request.query) - allowed)
    if names:
        expected = " and ".join(sorted(allowed)) or "none"
        raise BadQueryError(f"{names[0]}: unknown parameter; allowed: {expected}")
    for name in allowed:
        if len(request.query.getall(name, [])) > 1:
            raise BadQueryError(f"{name}: given more than once")


def target_json(state: TargetState) -> TargetJson:
    """One target: `up` is null before its first session ended."""
    last = state.last_session
    return {
        "target": state.name,
        "mode": state.mode,
        "url": state.url,
        "up": None if last is None else last.failure is None,
        "failure": None if last is None else _failure_json(last),
        "last_session_started": None if last is None else rfc3339(last.started_time),
        "simulated": state.simulated,
        "sessions": state.sessions,
        "notices": [
            {"notice": notice, "advice": ADVICE[notice]}
            for notice in sorted(last.notices if last else ())
        ],
        "engine": None if state.engine is None else _engine_json(state.engine),
        "container": None if state.container is None else _container_json(state.container),
        "cost": cost_json(state.cost),
    }


def _failure_json(last: SessionResult) -> TargetFailureJson | None:
    shape = failure_json(last.failure, last.failed_turn)
    return None if shape is None else {**shape, "advice": FAILURE_ADVICE[shape["reason"]]}


def _engine_json(view: EngineView) -> EngineJson:
    snapshot, info, failure = view.snapshot, view.info, view.failure
    cache = snapshot.cache if snapshot else None
    return {
        "up": failure is None,
        "failure": None
        if failure is None
        else {"reason": failure.reason, "detail": failure.detail},
        "version": info.version if info else None,
        "model": info.model if info else None,
        "max_model_len": info.max_model_len if info else None,
        "prefix_caching": cache.prefix_caching if cache else None,
        "block_size": cache.block_size if cache else None,
        "match_unit_tokens": cache.match_unit_tokens if cache else None,
        "capacity_tokens": cache.capacity_tokens if cache else None,
        "hit_ratios": dict(view.hit_ratios) if failure is None else {},
        "restarts": view.restarts,
    }


def _container_json(view: ContainerView) -> ContainerJson:
    diagnosis = view.diagnosis
    return {
        "state": view.state,
        "since": rfc3339(view.since_time),
        "image": view.snapshot.image if view.snapshot else None,
        "docker_problem": view.docker_problem,
        "diagnosis": None
        if diagnosis is None
        else {
            "cause": diagnosis.cause,
            "summary": diagnosis.summary,
            "advice": diagnosis.advice,
            "evidence": diagnosis.evidence,
        },
        "restarts": dict(view.restarts),
    }
