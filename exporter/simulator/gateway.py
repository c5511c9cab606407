"""A gateway in front of an engine that changes its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.simulator.faults import behaviours
from exporter.simulator.releases import shapes

if TYPE_CHECKING:
    from exporter.simulator.engine import Engine
    from exporter.simulator.scheduler import Job

Json = dict[str, Any]


def details(engine: Engine, job: Job) -> Json | None:
    """The cached tokens that usage reports; None if it reports none."""
    if not engine.usage_details:
        return None
    rewritten = engine.faults.get(behaviours.ZeroCached) is not None
    cached = 0 if rewritten else job.cached
    return shapes.details(engine.age, shapes.Cached(cached, job.created))


def usage(engine: Engine, used: Json) -> Json:
    """Usage as the client receives it."""
    odd = engine.faults.take(behaviours.OddUsage)
    if odd is None:
        return used
    if odd.kind == "empty":
        return {}
    if odd.kind == "no_prompt_tokens":
        return {key: value for key, value in used.items() if key != "prompt_tokens"}
    cached = {"cached_tokens": used["prompt_tokens"] + 1}
    return used | {"prompt_tokens_details": (used.get("prompt_tokens_details") or {}) | cached}


def edited(engine: Engine, answer: Json) -> Json:
    """An answer or a chunk as the client receives it."""
    if engine.faults.get(behaviours.OmitEmpty) is None:
        return answer
    kept = _without_empty(answer)
    return kept if isinstance(kept, dict) else {}


def _without_empty(value: object) -> object:
    if isinstance(value, dict):
        kept = {key: _without_empty(each) for key, each in value.items()}
        return {key: each for key, each in kept.items() if each not in (None, 0, "", {}, False)}
    if isinstance(value, list):
        return [_without_empty(each) for each in value]
    return value
