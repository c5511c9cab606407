"""The JSON API: the current state of sessions and targets."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from aiohttp import web

from exporter.metrics.state.condition import condition
from exporter.metrics.state.target import effective_hit_ratios, external_hit_tokens
from exporter.metrics.state.users_share import UsersShare
from exporter.model.json_fields import rfc3339
from exporter.web.api_description import description
from exporter.web.parameters import MAX_LIMIT, allow_only, asked_target, whole_number
from exporter.wording.notices import ADVICE, FAILURE_ADVICE
from exporter.wording.session_json import session_adapter, session_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.container.decide.records import ContainerView
    from exporter.metrics.history import History
    from exporter.metrics.state.cost import CostState
    from exporter.metrics.state.target import TargetState
    from exporter.metrics.store import Metrics
    from exporter.model.engine import EngineView
    from exporter.model.session import SessionResult
    from exporter.web.api_shape import (
        ContainerJson,
        CostJson,
        EngineJson,
        TargetFailureJson,
        TargetJson,
        UsersJson,
    )


_AT_A_TIME = 10  # sessions or targets: each takes 0.1 ms


def routes(metrics: Metrics, history: History) -> list[web.RouteDef]:
    async def sessions(request: web.Request) -> web.Response:
        allow_only(request, "target", "limit")
        target = asked_target(request, metrics.targets)
        limit = whole_number(request, "limit", MAX_LIMIT) or MAX_LIMIT
        await asyncio.to_thread(session_adapter)  # the first time it takes 15 ms: as below
        return await _in_parts("sessions", map(session_json, history.each(target, limit)))

    async def targets(request: web.Request) -> web.Response:
        allow_only(request, "target")
        target = asked_target(request, metrics.targets)
        known = metrics.targets
        shown = tuple(known.values()) if target is None else (known[target],)
        return await _in_parts("targets", map(target_json, shown))

    async def openapi(_request: web.Request) -> web.Response:
        # The first time it takes 30 ms: not in the event loop.
        return web.json_response(await asyncio.to_thread(description))

    return [
        web.get("/api/v1/sessions", sessions),
        web.get("/api/v1/targets", targets),
        web.get("/api/v1/openapi.json", openapi),
    ]


async def _in_parts(key: str, items: Iterable[Mapping[str, object]]) -> web.Response:
    """An object with one list. Other tasks run in between, because a fleet's list is long."""
    written: list[str] = []
    for item in items:
        written.append(json.dumps(item))
        if len(written) % _AT_A_TIME == 0:
            await asyncio.sleep(0)
    text = f"{{{json.dumps(key)}: [{', '.join(written)}]}}"
    return web.Response(text=text, content_type="application/json")


def target_json(state: TargetState) -> TargetJson:
    """One target. `up` is null until its first session has ended."""
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
        "notices": [{"notice": notice, "advice": ADVICE[notice]} for notice in state.notices],
        "engine": None if state.engine is None else _engine_json(state, state.engine),
        "container": None if state.container is None else _container_json(state.container),
        "cost": _cost_json(state.cost),
        "state": condition(state),
    }


def _failure_json(last: SessionResult) -> TargetFailureJson | None:
    failure = last.failure
    if failure is None:
        return None
    return {
        "reason": failure.reason,
        "detail": failure.detail,
        "turn": last.failed_turn,
        "advice": FAILURE_ADVICE[failure.reason],
        "request_id": last.failed_request_id,
    }


def _engine_json(state: TargetState, view: EngineView) -> EngineJson:
    users = state.users
    snapshot, info, failure = view.snapshot, view.info, view.failure
    cache = snapshot.cache if snapshot else None
    return {
        "up": failure is None,
        "failure": None
        if failure is None
        else {"reason": failure.reason, "detail": failure.detail},
        "version": info.version if info else None,
        "engines": max(1, len(snapshot.parts)) if snapshot else 1,
        "model": info.model if info else None,
        "max_model_len": info.max_model_len if info else None,
        "prefix_caching": cache.prefix_caching if cache else None,
        "block_size": cache.block_size if cache else None,
        "match_unit_tokens": cache.match_unit_tokens if cache else None,
        "capacity_tokens": cache.capacity_tokens if cache else None,
        "hit_ratios": dict(view.hit_ratios) if failure is None else {},
        "effective_hit_ratios": dict(effective_hit_ratios(state)),
        "external_hit_tokens": external_hit_tokens(state),
        "users": _users_json(users if failure is None and users.known else UsersShare()),
        "lookups_recounted": view.recounted,
        "restarts": view.restarts,
    }


def _users_json(users: UsersShare) -> UsersJson:
    return {
        "queried_tokens": users.queried_tokens,
        "hit_tokens": users.hit_tokens,
        "saved_tokens": users.saved_tokens,
        "hit_ratios": users.hit_ratios(),
        "external_hit_tokens": users.external_tokens,
        "effective_hit_ratios": users.effective_hit_ratios(),
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


def _cost_json(cost: CostState) -> CostJson:
    prefill = cost.prefill
    return {
        "paused": cost.paused,
        "budget_tokens_per_hour": cost.budget_tokens_per_hour,
        "cache_turnover_ratio": None if cost.footprint is None else cost.footprint.turnover,
        "prefill_seconds_per_token": None if prefill is None else prefill.seconds_per_token,
        "prefill_seconds_per_token_error": None if prefill is None else prefill.error,
        "prefill_seconds_saved": cost.saved.seconds,
        "users_prefill_seconds_saved": cost.users_saved.seconds,
        "retention_ratios": {f"{gap:g}": share for gap, share in sorted(cost.retention.items())},
    }
