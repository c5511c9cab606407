"""For any order of events: counters never fall, and unknown values stay absent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from happenings import LIMIT, TARGETS, Engines, sessions, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from publish_records import engine_view
from samples_page import ClientLibraryFamilies, page_bytes, page_text, publish

from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.model.reuse import RuleCause
from exporter.model.session import LossCause, SessionResult

if TYPE_CHECKING:
    from prometheus_client.samples import Sample


def read(metrics: Metrics) -> dict[tuple[str, str, frozenset], Sample]:
    text = page_text(metrics)
    return {
        (family.type, sample.name, frozenset(sample.labels.items())): sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def expected_turn_gauges(result: SessionResult | None) -> dict[tuple[str, str], float]:
    """What a reader of the contract would write down by hand."""
    if result is None or result.failure is not None:
        return {}
    values = {
        (f"vllm_probe_turn_{name}", str(one.index)): getattr(one, name)
        for one in result.turns
        for name in (
            *("hit_ratio", "ideal_hit_ratio", "attainable_hit_ratio"),
            *("efficiency_ratio", "tokens_saved"),
            *("prompt_tokens", "completion_tokens", "ttft_seconds", "latency_seconds"),
        )
        if one.index <= LIMIT
    }
    return {key: value for key, value in values.items() if value is not None}


@settings(deadline=None)
@given(st.lists(steps, max_size=12))
def test_counters_never_fall_and_turns_are_those_of_the_last_session(happenings):
    metrics, engines = Metrics(turn_label_limit=LIMIT), Engines()
    for target in TARGETS:
        metrics.add(TargetState(target))
    last: dict[str, SessionResult] = {}
    highest: dict[tuple[str, frozenset], float] = {}
    for step in happenings:
        if isinstance(step, SessionResult):
            publish(metrics, step)
            last[step.target] = step
        else:
            publish(metrics, engines.view(*step))
        samples = read(metrics)
        for (kind, name, labels), sample in samples.items():
            if kind in {"counter", "histogram"}:
                assert sample.value >= highest.get((name, labels), 0.0), name
                highest[(name, labels)] = sample.value
        for target in TARGETS:
            found = {
                (name, sample.labels["turn"]): sample.value
                for (_, name, _), sample in samples.items()
                if name.startswith("vllm_probe_turn_") and sample.labels["target"] == target
            }
            assert found == expected_turn_gauges(last.get(target))


accepted = st.sampled_from(
    [
        f"{kind};version=1.0.0;escaping={escaping}"
        for kind in ("text/plain", "application/openmetrics-text")
        for escaping in ("underscores", "allow-utf-8", "dots", "values")
    ]
    + ["text/plain", "application/openmetrics-text"]
)
# What a line's text must be written with care for, and anything else.
texts = st.text(st.sampled_from('"\\\n%{}=, \0\ud800é1a'), max_size=30) | st.text(max_size=30)


def without_process(page: bytes) -> list[bytes]:
    """The values of the process change between one page and the next."""
    return [line for line in page.split(b"\n") if b"process_" not in line]


@settings(deadline=None, max_examples=60)
@given(st.lists(steps, max_size=6), accepted, texts, st.lists(st.floats() | st.integers()))
def test_a_page_is_byte_for_byte_what_the_client_library_writes(happenings, accept, text, times):
    metrics, engines = Metrics(turn_label_limit=LIMIT), Engines()
    for target, labels in zip(TARGETS, ({}, {"team": text or "x", "a": "b"}), strict=False):
        metrics.add(TargetState(target, labels=labels))
    for step in happenings:
        if isinstance(step, SessionResult):
            publish(metrics, step)
        else:
            publish(metrics, engines.view(*step))
    info = replace(engine_view().info, model=text, version=text[:3])
    publish(metrics, replace(engines.view("one", [1] * 6), info=info))
    for number, time in enumerate(times):
        metrics.exporter.loops.ran(f"{text}{number}", time)
    encode, _ = choose_encoder(accept)
    written, expected = page_bytes(metrics, accept), encode(ClientLibraryFamilies(metrics))
    assert without_process(written) == without_process(expected)


def judged_turns(result: SessionResult):
    """The turns of which it is known what the engine could attain, or what it lost against the
    ideal while nothing else of the session is unknown.
    """
    later = [one for one in result.turns if one.index > 1 and one.cached_tokens is not None]
    ruled = [one for one in later if one.attainable_cached_tokens is not None]
    lost = [one for one in later if one.attainable_cached_tokens is None and one.loss]
    unknown = any(one.cached_tokens for one in later if one not in ruled and one not in lost)
    return ruled + ([] if unknown else lost)


@settings(deadline=None)
@given(st.lists(sessions(), max_size=8))
def test_ratios_of_counters_are_those_of_the_turns_that_are_known(results):
    metrics = Metrics()
    for target in TARGETS:
        metrics.add(TargetState(target))
    for result in results:
        publish(metrics, result)
    samples = {(name, labels): s.value for (_, name, labels), s in read(metrics).items()}
    for target in TARGETS:
        own = [r for r in results if r.target == target]
        known = [one for r in own for one in r.turns if one.cached_tokens is not None]
        judged = [one for r in own for one in judged_turns(r)]
        attained = [
            one.ideal_cached_tokens
            if one.attainable_cached_tokens is None
            else one.attainable_cached_tokens
            for one in judged
        ]
        expected = {
            "prompt": sum(one.prompt_tokens for one in known) if known else None,
            "cached": sum(one.cached_tokens for one in known) if known else None,
            "ideal_cached": sum(one.ideal_cached_tokens for one in judged) if judged else None,
            "attainable_cached": sum(attained) if judged else None,
        }
        only_target = frozenset({("target", target)})
        for name, value in expected.items():
            assert samples.get((f"vllm_probe_{name}_tokens_total", only_target)) == value
        lost = {
            dict(labels)["cause"]: value
            for (name, labels), value in samples.items()
            if name == "vllm_probe_lost_tokens_total" and ("target", target) in labels
        }
        assert set(lost) == ({*LossCause, *RuleCause} if judged else set())
        by_rule = sum(value for cause, value in lost.items() if cause in set(RuleCause))
        ideal = expected["ideal_cached"] or 0
        assert by_rule == ideal - sum(attained)
        assert sum(lost.values()) == ideal - sum(one.cached_tokens for one in judged)
