"""A session as spans: names, times, attributes, and no text of a conversation."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from otlp_receiver import attributes
from publish_records import STARTED, TURNS, failed_session, session

from exporter.model.session import BreakReason, PrefixBreak, PrefixStability
from exporter.otlp.sdk.mapping.metric_data import nanoseconds
from exporter.otlp.sdk.mapping.span_data import SpanMaker

MAKER = SpanMaker(Resource({"service.name": "test"}), InstrumentationScope("test"))
URL = "http://gpu-3:8000/v1"
INTERNAL, CLIENT, ERROR = 1, 3, 2


def timed(result, at=100.0):
    """The same session with monotonic times: it begins at `at`, a turn every 2 s."""
    turns = [replace(one, sent_at=at + 0.5 + 2 * place) for place, one in enumerate(result.turns)]
    return replace(result, turns=tuple(turns), started_at=at)


def spans(result, url=URL, seed=1, **labels):
    request = encode_spans(MAKER.spans(result, url, labels, Random(seed).getrandbits))
    return [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]


def test_a_session_is_a_trace_with_a_span_for_each_turn():
    result = timed(session(*TURNS))
    whole, *turns = spans(result)
    assert (whole.name, whole.kind) == (f"session {result.scenario}", INTERNAL)
    assert whole.parent_span_id == b""
    assert [turn.name for turn in turns] == [f"chat {result.model}"] * len(TURNS)
    assert {turn.kind for turn in turns} == {CLIENT}
    assert {turn.parent_span_id for turn in turns} == {whole.span_id}
    assert {each.trace_id for each in (whole, *turns)} == {whole.trace_id}
    assert len({each.span_id for each in (whole, *turns)}) == len(TURNS) + 1
    assert [attributes(turn)["vllm_cache_exporter.turn"] for turn in turns] == [
        turn.index for turn in TURNS
    ]


def test_a_turn_has_its_real_begin_and_end():
    result = timed(session(*TURNS))
    whole, *turns = spans(result)
    assert whole.start_time_unix_nano == nanoseconds(STARTED)
    assert whole.end_time_unix_nano == nanoseconds(STARTED + result.duration_seconds)
    for place, (span, turn) in enumerate(zip(turns, TURNS, strict=True)):
        begin = STARTED + 0.5 + 2 * place
        assert span.start_time_unix_nano == nanoseconds(begin)
        assert span.end_time_unix_nano == nanoseconds(begin + turn.latency_seconds)


def test_a_turn_has_the_names_of_the_conventions_for_generative_ai():
    turn = TURNS[-1]
    assert turn.loss is not None
    *_, last = spans(timed(session(*TURNS)))
    found = attributes(last)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": turn.prompt_tokens,
        "gen_ai.usage.output_tokens": turn.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": turn.cached_tokens,
        "gen_ai.response.time_to_first_chunk": turn.ttft_seconds,
        "server.address": "gpu-3",
        "server.port": 8000,
    }
    assert {name: found.get(name) for name in expected} == expected
    own = {
        "attainable_cached_tokens": turn.attainable_cached_tokens,
        "ideal_cached_tokens": turn.ideal_cached_tokens,
        "lost_tokens": turn.loss.tokens,
        "loss_cause": turn.loss.cause,
        "hit_ratio": turn.hit_ratio,
        "efficiency_ratio": turn.efficiency_ratio,
        "target": "local",
    }
    assert {name: found.get(f"vllm_cache_exporter.{name}") for name in own} == own


def test_each_span_has_the_labels_of_its_target():
    failed = replace(timed(failed_session(TURNS[0])), failed_turn=2, failed_sent_at=101.0)
    made = spans(failed, team="search", gpu="h100")
    assert len(made) == 3
    for span in made:
        found = attributes(span)
        assert found["vllm_cache_exporter.label.team"] == "search"
        assert found["vllm_cache_exporter.label.gpu"] == "h100"


def test_what_is_unknown_is_absent():
    turn = replace(TURNS[0], cached_tokens=None, hit_ratio=None, ttft_seconds=None, request_id=None)
    _, span = spans(timed(session(turn)), url=None)
    names = attributes(span).keys()
    for absent in ("cache_read", "hit_ratio", "time_to_first", "request_id", "server.", "loss"):
        assert not [name for name in names if absent in name], absent


def test_a_turn_whose_time_is_unknown_has_no_span():
    assert len(spans(session(*TURNS))) == 1


def test_a_failed_session_is_an_error_with_the_reason_and_so_is_its_failed_turn():
    failed = timed(failed_session(TURNS[0]))
    failed = replace(failed, failed_turn=2, failed_sent_at=100.0 + 0.25, failed_request_id="r-2")
    whole, first, second = spans(failed)
    reason = failed.failure.reason
    for span in (whole, second):
        assert span.status.code == ERROR
        assert span.status.message == f"{reason}: {failed.failure.detail}"
        assert attributes(span)["error.type"] == reason
    assert first.status.code == 0
    assert attributes(second)["vllm_cache_exporter.turn"] == 2
    assert second.start_time_unix_nano == nanoseconds(STARTED + 0.25)
    assert second.end_time_unix_nano == whole.end_time_unix_nano
    assert second.parent_span_id == whole.span_id


def test_a_session_without_a_request_is_one_span():
    result = replace(timed(failed_session()), failed_turn=None)
    assert len(spans(result)) == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_a_session_that_is_sent_again_has_the_same_ids(seed):
    result = timed(session(*TURNS))
    ids = [(span.trace_id, span.span_id) for span in spans(result, seed=seed)]
    assert ids == [(span.trace_id, span.span_id) for span in spans(result, seed=seed)]
    assert ids != [(span.trace_id, span.span_id) for span in spans(result, seed=seed + 1)]


def test_no_id_is_invalid():
    made = MAKER.spans(timed(session(*TURNS)), URL, {}, lambda _bits: 0)
    assert all(span.get_span_context().is_valid for span in made)


def test_it_contains_no_text_of_a_prompt():
    found = PrefixBreak(
        *(2, 40, 90, BreakReason.VALUE_CHANGED, 1, "system"),
        before="the secret plan",
        earlier="tuesday",
        later="wednesday",
    )
    result = replace(timed(session(*TURNS)), prefix=PrefixStability(False, 1, found))
    sent = b"".join(span.SerializeToString() for span in spans(result))
    assert not any(word in sent for word in (b"secret", b"tuesday", b"wednesday"))
