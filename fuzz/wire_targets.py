"""Fuzz targets for what an engine sends: metrics pages, event streams, refusals.

Each target takes any bytes and raises AssertionError if they are read wrongly.
"""

from __future__ import annotations

import io
import json
import math
import random
import re
from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from exporter.container.decide.log.loading import LoadProgress, read_line
from exporter.container.decide.records import DockerError, LogLine
from exporter.container.docker.errors import translated
from exporter.container.docker.records import snapshot_from
from exporter.container.docker.streams import events, log_lines
from exporter.engine.metrics import exposition, names
from exporter.engine.wire.refusal import failure_of
from exporter.engine.wire.request import ChatRequest
from exporter.engine.wire.sse import Decoder, Event
from exporter.engine.wire.surfaces.named import SURFACES
from exporter.errors import ExpositionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.samples import Sample

    from exporter.engine.wire.answer import Answer
    from exporter.engine.wire.surfaces.surface import Surface
    from exporter.model.engine import EngineSnapshot

MOST_SAID = 1000  # characters of an error's text
_LONGEST_LOG_LINE = 2 * 65536

_SUMMED = {
    "queried_tokens": names.QUERIED_TOKENS,
    "hit_tokens": names.HIT_TOKENS,
    "cached_prompt_tokens": names.CACHED_PROMPT_TOKENS,
    "prompt_tokens": names.PROMPT_TOKENS,
    "generation_tokens": names.GENERATION_TOKENS,
    "preemptions": names.PREEMPTIONS,
    "requests_running": names.REQUESTS_RUNNING,
    "requests_waiting": names.REQUESTS_WAITING,
}
_RATIOS = ("kv_cache_usage_ratio", "hit_rate_gauge")
_OWN_LIMITS = ("too much to read", "the page breaks off", "not UTF-8")


def metrics_page(page: bytes) -> None:
    """The page gives the same as prometheus_client's parser, or an error."""
    whole = _all_samples(page)
    try:
        snapshot = _read(page)
    except ExpositionError as error:
        said = str(error)
        line = re.search(r"line ([0-9]+)", said)
        assert line is not None, said
        assert 0 < int(line[1]) <= max(2501, page.count(b"\n") + 1), said
        assert len(said) <= MOST_SAID
        assert whole is None or said.startswith(_OWN_LIMITS), f"refused a good page: {said}"
        return
    exposition.forget()
    assert _read(page) == snapshot, "read otherwise the second time"
    assert _read(page + b'# a comment\nother_metric{a="b"} 1\n') == snapshot, "led astray"
    _check_values(snapshot)
    if whole is not None and not snapshot.parts:  # a router's page is read engine by engine
        for field, family in _SUMMED.items():
            value = getattr(snapshot, field)
            if value is None and _in_unknown_unit(family, whole):
                continue
            expected = _sum(family, whole)
            if expected is not None and family in names.LOOKUPS:
                expected *= snapshot.lookup_step_tokens
            assert value == expected, field


def _in_unknown_unit(family: names.Family, samples: list[Sample]) -> bool:
    """Whether it may count blocks: under the old names of the lookups."""
    on_page = {sample.name for sample in samples}
    return family in names.LOOKUPS and any(
        each.names[-1] in on_page and each.names[0] not in on_page for each in names.LOOKUPS
    )


def _read(page: bytes) -> EngineSnapshot:
    return exposition.parse(page, at=10.0, scrape_seconds=0.25)


def _all_samples(page: bytes) -> list[Sample] | None:
    """What prometheus_client makes of the whole page, None where that is nothing."""
    try:
        text = page.decode()
        return [s for family in text_string_to_metric_families(text) for s in family.samples]
    except (ValueError, IndexError, OverflowError):
        return None


def _check_values(snapshot: EngineSnapshot) -> None:
    for field in fields(snapshot):
        value = getattr(snapshot, field.name)
        if isinstance(value, float):
            assert math.isfinite(value), field.name
            assert value >= 0, field.name
    assert all((getattr(snapshot, name) or 0) <= 1 for name in _RATIOS)
    assert snapshot.ranks >= 0


def _sum(family: names.Family, samples: list[Sample]) -> float | None:
    """The plainest reading of the rules: newest name, all ranks, each once, finite, not below 0."""
    engines = {
        sample.labels["engine"]
        for each in names.VLLM_FAMILIES
        for sample in _of(each, samples)
        if "engine" in sample.labels
    }
    found = _of(family, samples)
    if not found:
        return None
    total = []
    for sample in found:
        try:
            value = float(sample.value)
        except OverflowError:
            return None
        if not (math.isfinite(value) and value >= 0):
            return None
        total.append(value)
    named = {sample.labels["engine"] for sample in found if "engine" in sample.labels}
    distinct = {frozenset(sample.labels.items()) for sample in found}
    if len(distinct) < len(found) or (named and named != engines):
        return None
    return math.fsum(total)


def _of(family: names.Family, samples: list[Sample]) -> list[Sample]:
    for name in family.names:
        if found := [sample for sample in samples if sample.name == name]:
            return found
    return []


def stream(data: bytes) -> None:
    """The first byte says where the rest is cut; the same comes out however it is cut."""
    step, body = (data[0] or 1, data[1:]) if data else (1, b"")
    whole = _decoded([body])
    events, skipped = whole
    assert _decoded([body[n : n + 1] for n in range(len(body))]) == whole, "cut into bytes"
    assert _decoded([body[n : n + step] for n in range(0, len(body), step)]) == whole, f"by {step}"
    chance = random.Random(step)
    cuts = sorted(chance.randint(0, len(body)) for _ in range(8))
    ragged = [body[n:m] for n, m in pairwise([0, *cuts, len(body)])]
    assert _decoded(ragged) == whole, f"cut at {cuts}"
    assert [event.data for event in events] == list(_plainly(body))
    ends = [event.end for event in events]
    assert ends == sorted(set(ends))
    assert all(0 < end <= len(body) for end in ends)
    assert skipped <= len(body)
    for surface in SURFACES.values():
        first, second = _answered(events, surface), _answered(events, surface)
        assert _facts(first) == _facts(second), "read otherwise the second time"
        _check_answer(first)
        history = [first.message(), {"role": "user", "content": "and now?"}]
        json.dumps(surface.body(ChatRequest("m", history, 1)))
        json.dumps(surface.rendered(history))


def _decoded(chunks: Iterable[bytes]) -> tuple[list[Event], int]:
    decoder = Decoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events, decoder.skipped


def _plainly(body: bytes) -> Iterable[bytes]:
    """The events' data by the WHATWG rules, with a regular expression over the whole stream."""
    body = body.removeprefix(b"\xef\xbb\xbf")
    if body.endswith(b"\r"):
        body = body[:-1]  # a line feed may follow, so its line is not over
    *lines, _unfinished = re.split(rb"\r\n|\r|\n", body)
    data: list[bytes] = []
    for line in lines:
        if not line and data:
            yield b"\n".join(data)
            data = []
        name, colon, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" ") if colon else b"")


def _answered(events: list[Event], surface: Surface) -> Answer:
    answer = surface.answer()
    for number, event in enumerate(events):
        failed = answer.failure
        had_text = answer.add(event.data, float(number))
        assert failed is None or (answer.failure is failed and not had_text), (
            "went on after a failure"
        )
    return answer


def _facts(answer: Answer) -> tuple[object, ...]:
    return (
        answer.token_times,
        answer.usage,
        answer.finish_reason,
        answer.prompt_token_ids,
        answer.completion_token_ids,
        answer.logprob_token_ids,
        answer.end(),
        json.dumps(answer.message()),
    )


def _check_answer(answer: Answer) -> None:
    json.dumps(answer.message())  # it goes into the next request
    if answer.usage is not None:
        usage = answer.usage
        hit = usage.cached_tokens or 0
        assert all(type(n) is int for n in (usage.prompt_tokens, usage.completion_tokens, hit))
        assert 0 <= hit <= usage.prompt_tokens
        assert usage.completion_tokens >= 0
    if (failure := answer.end()) is not None:
        assert failure.detail
        assert len(failure.detail) <= MOST_SAID
    for ids in (answer.prompt_token_ids, answer.completion_token_ids, answer.logprob_token_ids):
        assert all(type(each) is int for each in ids or ())


def refused(data: bytes) -> None:
    """Two bytes of status, then the body of an answer that is no stream."""
    status, body = int.from_bytes(data[:2]) % 700, data[2:]
    failure = failure_of(status, body)
    assert failure == failure_of(status, body)
    assert str(status) in failure.detail
    assert len(failure.detail) <= MOST_SAID
    assert "\n" not in failure.detail or b"\\n" in body


def docker(body: bytes) -> None:
    """The body as each kind of answer of Docker's: records, or a DockerError in words."""
    readers: tuple[Callable[[], list[Any]], ...] = (
        lambda: [snapshot_from(json.loads(body))],
        lambda: list(events(_answer_of(body))),
        lambda: list(log_lines(_answer_of(body), terminal=True)),
        lambda: list(log_lines(_answer_of(body), terminal=False)),
    )
    for read in readers:
        found, said = _translated(read)
        again, said_again = _translated(read)
        assert repr(found) == repr(again), "read otherwise the second time"
        assert said == said_again, "refused otherwise the second time"
        assert len(said) <= MOST_SAID, f"{len(said)} characters are said"
        assert all(len(each.text) <= _LONGEST_LOG_LINE for each in found if type(each) is LogLine)
    progress = LoadProgress()
    for number, text in enumerate(body.decode("utf-8", "replace").splitlines(), start=1):
        before, progress = progress, read_line(progress, text)
        assert progress.lines == number
        assert before.progress_lines <= progress.progress_lines <= number
        assert before.loads <= progress.loads <= progress.progress_lines
        assert progress.served >= before.served


def _translated(read: Callable[[], list[Any]]) -> tuple[list[Any], str]:
    """The result, or the text of the error."""
    try:
        with translated("fuzz"):
            return read(), ""
    except DockerError as error:
        return [], str(error)


def _answer_of(body: bytes) -> requests.Response:
    response = requests.Response()
    response.raw = io.BytesIO(body)
    return response
