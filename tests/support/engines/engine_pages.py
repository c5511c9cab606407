"""Pages of vLLM's /metrics for tests: recorded ones, and others written line by line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporter.engine.metrics import exposition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.model.engine import EngineSnapshot

DATA = Path(__file__).parents[2] / "engine" / "data"


def recorded(name: str) -> bytes:
    return (DATA / f"metrics_{name}.txt").read_bytes()


def read(page: bytes | str, *, version: str | None = None) -> EngineSnapshot:
    return exposition.parse(page, at=10.0, scrape_seconds=0.25, version=version)


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def series(name: str, value: object, labels: Mapping[str, str] | None = None) -> str:
    """One line of Prometheus text."""
    inside = ",".join(f'{key}="{escaped(text)}"' for key, text in (labels or {}).items())
    return f"{name}{{{inside}}} {value}\n" if inside else f"{name} {value}\n"


def rank(name: str, value: object, engine: int | str = 0, **more: str) -> str:
    """One line of an engine rank, labelled as vLLM labels it."""
    return series(name, value, {"engine": str(engine), "model_name": "tiny", **more})


def vllm_page(
    *,
    started: float | None = 1_700_000_000.0,
    queried: float | str | None = 0.0,
    hit: float | str | None = 0.0,
    cached: float | str | None = None,
    prompt: float | str | None = None,
) -> bytes:
    """A small page of one rank; None leaves a family out."""
    lines = [
        ("vllm:prefix_cache_queries_total", queried),
        ("vllm:prefix_cache_hits_total", hit),
        ("vllm:prompt_tokens_cached_total", cached),
        ("vllm:prompt_tokens_total", prompt),
    ]
    page = "" if started is None else series("process_start_time_seconds", started)
    page += rank("vllm:num_requests_running", 0.0)
    if cached is not None:
        page += rank("vllm:prompt_tokens_by_source_total", cached, source="local_cache_hit")
    return (page + "".join(rank(n, v) for n, v in lines if v is not None)).encode()
