"""The other pages of each kind of server: /metrics, /version, /v1/models."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from exporter.simulator import metrics
from exporter.simulator.faults import behaviours
from exporter.simulator.releases import ages

if TYPE_CHECKING:
    from exporter.simulator.engine import Engine

_ROUTER_VERSION = "0.1.8"
_ROUTER_GAUGES = {
    "num_requests_running": "Number of running requests",
    "gpu_prefix_cache_hit_rate": "GPU Prefix Cache Hit Rate",
    "gpu_prefix_cache_hits_total": "Total GPU Prefix Cache Hits",
    "gpu_prefix_cache_queries_total": "Total GPU Prefix Cache Queries",
    "num_requests_swapped": "Number of swapped requests",
    "healthy_pods_total": "Number of healthy vLLM pods",
}


def metrics_page(engine: Engine) -> bytes:
    shown = engine.faults.get(behaviours.PageOf)
    whose = "engine" if shown is None else shown.whose
    if whose == "none":
        return b"# TYPE gateway_up gauge\ngateway_up 1.0\n"
    if whose in ("router", "old_router"):
        return _router_page(engine, known_names=whose == "old_router")
    return _engines_page(engine, whose)


def _engines_page(engine: Engine, whose: str) -> bytes:
    """The engines' own page, without missing families."""
    lines = engine.metrics_page().decode().splitlines(keepends=True)
    drafts = engine.faults.get(behaviours.Drafts)
    lines = [line for line in lines if _belongs(line, 0 if drafts is None else drafts.tokens)]
    if engine.age not in ages.CREATED_SERIES:
        lines = [line for line in lines if not re.match(r"(# \w+ )?vllm:\w+_created\b", line)]
    left = engine.faults.get(behaviours.PodGone)
    shown = engine.ranks if left is not None and left.series == "stay" else engine.open_ranks
    gone = {str(number) for number in range(len(shown), len(engine.ranks))}
    if whose == "first":
        gone = {str(number) for number in range(1, len(engine.ranks))}
    lines = [line for line in lines if _rank_of(line) not in gone]
    if whose == "merged":
        lines = [re.sub(r'engine="(\d+)"', r'engine="0",pod="vllm-\1"', line) for line in lines]
    return "".join(lines).encode()


def _belongs(line: str, draft_tokens: int) -> bool:
    """Whether the page of an engine with drafts of so many tokens has this line."""
    if metrics.DRAFTS not in line:
        return True
    position = re.search(r'[{,]position="(\d+)"', line)
    return draft_tokens > (0 if position is None else int(position[1]))


def _rank_of(line: str) -> str | None:
    found = re.search(r'[{,]engine="(\d+)"', line)
    return None if found is None else found[1]


def _router_page(engine: Engine, *, known_names: bool) -> bytes:
    """The gauges of a router, like those of vLLM's production stack.

    It reads the engines' pages by names that vLLM removed in 0.11, and shows 0 if it finds none.
    """
    registry = CollectorRegistry()
    gauges = {
        name: Gauge(f"vllm:{name}", text, ("server",), registry=registry)
        for name, text in _ROUTER_GAUGES.items()
    }
    for number, rank in enumerate(engine.open_ranks):
        totals = engine.process.ranks[number].totals if known_names else {}
        values = {
            "num_requests_running": rank.running,
            "gpu_prefix_cache_hits_total": totals.get("prefix_cache_hits", 0),
            "gpu_prefix_cache_queries_total": totals.get("prefix_cache_queries", 0),
            "healthy_pods_total": 1,
        }
        for name, gauge in gauges.items():
            gauge.labels(server=f"http://10.0.0.{number + 1}:8000").set(values.get(name, 0))
    return generate_latest(registry)


def version(engine: Engine) -> dict[str, Any]:
    page = engine.faults.get(behaviours.PageOf)
    routed = page is not None and page.whose in ("router", "old_router")
    return {"version": _ROUTER_VERSION if routed else engine.age.version, "simulated": True}


def models(engine: Engine) -> dict[str, Any]:
    card = engine.faults.get(behaviours.ModelCard)
    bare = card is not None and card.kind == "bare"
    return {"object": "list", "data": [_card(engine, name, bare=bare) for name in engine.models]}


def _card(engine: Engine, name: str, *, bare: bool) -> dict[str, Any]:
    base, created = engine.settings.model, int(engine.started_time)
    card: dict[str, Any] = {"id": name, "object": "model", "created": created}
    card["owned_by"] = "vllm-simulator"
    if bare:
        return card
    adapter = name != base
    return card | {
        "root": name,
        "parent": base if adapter else None,
        "max_model_len": None if adapter else engine.max_model_len,
        "permission": [_permission(created)],
    }


def _permission(created: int) -> dict[str, Any]:
    return {
        "id": "modelperm-simulated",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
