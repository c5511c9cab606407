"""For any page, what is picked and parsed agrees with a parser of the whole page."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from engine_pages import escaped, read, recorded
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from exporter.engine.metrics import exposition
from exporter.errors import ExpositionError

SUMMED = {
    "queried_tokens": ["vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"],
    "hit_tokens": ["vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"],
    "prompt_tokens": ["vllm:prompt_tokens_total"],
    "generation_tokens": ["vllm:generation_tokens_total"],
    "preemptions": ["vllm:num_preemptions_total"],
    "external_queried_tokens": ["vllm:external_prefix_cache_queries_total"],
    "external_hit_tokens": ["vllm:external_prefix_cache_hits_total"],
    "requests_running": ["vllm:num_requests_running"],
    "requests_waiting": ["vllm:num_requests_waiting"],
}
DECOYS = [
    "vllm:prompt_tokens_created",
    "vllm:prompt_tokens_total_created",
    "vllm:num_requests_waiting_by_reason",
    "vllm:request_success_total",
    "prompt_tokens_total",
    "http_requests_total",
]
# A carriage return has no escape in the format, so a client would not put one into a label.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=20)
NAMES = st.sampled_from([*(name for names in SUMMED.values() for name in names), *DECOYS])
NUMBERS = st.one_of(
    st.integers(0, 10**12).map(str),
    st.floats(0, 1e15).map(repr),
    st.sampled_from(["NaN", "+Inf", "-Inf", "1e3", "-1"]),
)


@st.composite
def lines(draw: st.DrawFn, name: str) -> str:
    engine = draw(st.sampled_from(["0", "1", "2"]))
    model = draw(TEXT)
    blank = draw(st.sampled_from(["", " ", "\t"]))
    indent = draw(st.sampled_from(["", "", "", " ", "\t"]))
    stamp = draw(st.sampled_from(["", "", " 1700000000000"]))
    labels = f'engine="{engine}",model_name="{escaped(model)}"'
    if draw(st.booleans()):
        labels += ","
    return f"{indent}{name}{blank}{{{labels}}} {draw(NUMBERS)}{stamp}"


@st.composite
def pages(draw: st.DrawFn) -> str:
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    page = ""
    for name in draw(st.lists(NAMES, max_size=8)):
        if draw(st.booleans()):
            page += f"# HELP {name} {escaped(draw(TEXT))} {name}{{}} 1{end}"
            kind = "counter" if name.endswith("_total") else "gauge"
            page += f"# TYPE {name} {kind}{end}"
        for line in draw(st.lists(lines(name), max_size=4)):
            page += line + end
        if draw(st.booleans()):
            page += end
    return page


def oracle(page: str) -> dict[str, float | None]:
    """The sums by a parser of the whole page and the plainest arithmetic."""
    found: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name].append((sample.labels, float(sample.value)))
    chosen = {
        field: next((found[name] for name in names if name in found), [])
        for field, names in SUMMED.items()
    }
    ranks = {labels["engine"] for samples in chosen.values() for labels, _ in samples}
    sums: dict[str, float | None] = {}
    for field, samples in chosen.items():
        values = [value for _, value in samples]
        distinct = {(labels["engine"], labels["model_name"]) for labels, _ in samples}
        usable = (
            samples
            and all(math.isfinite(value) and value >= 0 for value in values)
            and len(distinct) == len(samples)
            and {labels["engine"] for labels, _ in samples} == ranks
        )
        sums[field] = math.fsum(values) if usable else None
    return sums


@given(pages())
def test_a_page_gives_what_a_parser_of_the_whole_page_gives(page: str):
    snapshot = read(page, version="0.9.1")  # which counts tokens under the old names, too
    assert {field: getattr(snapshot, field) for field in SUMMED} == oracle(page)


@given(st.dictionaries(st.from_regex("[a-z_]{1,8}", fullmatch=True), TEXT, max_size=6), TEXT)
def test_label_values_survive_the_way_through_the_page(labels: dict[str, str], model: str):
    labels = {key: value for key, value in labels.items() if not key.startswith("__")}
    registry = CollectorRegistry()
    info = {**labels, "engine": "0", "model_name": model}
    Gauge("vllm:cache_config_info", "x", list(info), registry=registry).labels(**info).set(1)
    Gauge("vllm:num_requests_running", "x", ["engine", "model_name"], registry=registry).labels(
        "0", model
    ).set(2)
    snapshot = read(generate_latest(registry))
    assert snapshot.requests_running == 2.0
    assert snapshot.model_names == (model,)
    assert snapshot.cache is not None
    assert snapshot.cache.labels == {k: v for k, v in info.items() if k != "engine"}


PIECES = st.one_of(
    st.sampled_from([b"vllm:prompt_tokens_total", b"vllm:cache_config_info"]),
    st.sampled_from([b"NaN", b"engine", b'engine="0"', b"\xff", b"\0", b"\r", b"\n", b"\t"]),
    st.sampled_from([bytes([byte]) for byte in b'{}"\\=, #1_']),
)


@given(st.lists(PIECES, max_size=30).map(b"".join))
def test_any_bytes_are_a_page_or_are_refused(page: bytes):
    try:
        read(page)
    except ExpositionError as error:
        assert "line " in str(error)  # noqa: PT017 - both outcomes are right, an untyped error is not


@given(st.data())
def test_a_damaged_recorded_page_is_a_page_or_is_refused(data: st.DataObject):
    page = bytearray(WANTED_PART)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(page) - 1))
        page[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        read(bytes(page))
    except ExpositionError as error:
        assert "line " in str(error)  # noqa: PT017 - as above


WANTED_PART = b"".join(
    line + b"\n" for line in recorded("main32_after").split(b"\n") if b"cache" in line[:40]
)


@pytest.mark.parametrize("kind", [str, bytes])
def test_a_page_may_be_text_or_bytes(kind: type):
    page = recorded("kvev")
    given_page = page.decode() if kind is str else page
    assert exposition.parse(given_page, at=10.0, scrape_seconds=0.25) == read(page)
