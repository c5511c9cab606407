"""The engine with a KV store against a recording of a real one, request by request.

A prompt is made of pieces of one row of tokens, each `[start, tokens]`, and of the first answer.
"""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from recorded_caches import STORE

from exporter.clock import SystemClock
from exporter.simulator.engine import Engine
from exporter.simulator.engine_kinds.settings import SimulatorSettings
from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.text.answers import Answer

ANSWER = Answer(
    token_ids=(9001, 9002, 9003, 9004),
    deltas=({"content": "x"},) * 4,
    content="xxxx",
    tool_calls=(),
    finish_reason="length",
    stop_reason=None,
)
COUNTERS = (
    *("prefix_cache_queries", "prefix_cache_hits", "prompt_tokens", "prompt_tokens_cached"),
    *("external_prefix_cache_queries", "external_prefix_cache_hits"),
    *("prompt_tokens_by_source", "prompt_tokens_cached_by_source"),
)


def prompt_of(pieces):
    ids = []
    for piece in pieces:
        whole = piece == "answer of 0"
        ids += ANSWER.token_ids if whole else range(piece[0], sum(piece))
    return ids


def counted(engine):
    """The counters by name, those of a source as `name/source`."""
    found = {}
    for family in text_string_to_metric_families(engine.metrics_page().decode()):
        name = family.name.removeprefix("vllm:")
        for sample in family.samples if name in COUNTERS else ():
            if sample.name.endswith("_total"):
                source = sample.labels.get("source")
                found[f"{name}/{source}" if source else name] = sample.value
    return found


async def answered(engine, request):
    """What usage reports of the request, and the growth of the counters."""
    before = counted(engine)
    job = engine.submit(prompt_of(request["prompt"]), ANSWER, salt=request["salt"], max_tokens=4)[1]
    while not (await job.progress.get()).last:
        pass
    now = counted(engine)
    return job.cached, {name: n - before[name] for name, n in now.items() if n > before[name]}


async def test_the_store_serves_and_counts_as_the_real_one_did():
    given = SimulatorSettings(block_size=STORE["block_size"], time_scale=0.0, num_blocks=4096)
    engine = Engine(settings_like("external", given), SystemClock())
    engine.start()
    try:
        for number, request in enumerate(STORE["requests"]):
            if request.get("reset"):
                engine.reset_prefix_cache()
                continue
            assert await answered(engine, request) == (request["usage"], request["counted"]), number
    finally:
        await engine.stop()
