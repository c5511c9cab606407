"""A session as the SDK's spans: one for the session, and one for each turn. Pure.

Names follow OpenTelemetry's semantic conventions for generative AI where they have one. They hold
numbers, names and reasons, never the text of a prompt or an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from exporter.analysis.session_totals import session_totals
from exporter.otlp.sdk.mapping.metric_data import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from exporter.model.session import SessionResult, TurnFacts

    Value = str | bool | int | float | Sequence[str]

OWN = "vllm_cache_exporter."
"""Before the names that no convention has."""
_UNSET = Status(StatusCode.UNSET)
_TRACE_BITS, _SPAN_BITS = 128, 64


class SpanMaker:
    """Makes the spans of sessions."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource = resource
        self._scope = scope

    def spans(
        self,
        result: SessionResult,
        url: str | None,
        labels: Mapping[str, str],
        random_bits: Callable[[int], int],
    ) -> list[ReadableSpan]:
        """The span of the session first. `url` and `labels` are those of the target; `random_bits`
        gives a random number of so many bits.
        """
        ids = _Ids(random_bits)
        session_context = ids.context()
        common = _common(result, labels)
        of_turns = {**common, **_server(url), **_REQUEST}
        session = self._span(
            (f"session {result.scenario}", SpanKind.INTERNAL),
            (session_context, None),
            (result.started_time, result.started_time + result.duration_seconds),
            {**common, **_session_attributes(result)},
            _status(result),
        )
        turns = [
            self._span(
                (_turn_name(result), SpanKind.CLIENT),
                (ids.context(), session_context),
                (begin, begin + turn.latency_seconds),
                {**of_turns, **_turn_attributes(turn)},
            )
            for turn in result.turns
            if (begin := _unix(result, turn.sent_at)) is not None
        ]
        return [session, *turns, *self._failed_turn(result, ids, session_context, of_turns)]

    def _failed_turn(
        self,
        result: SessionResult,
        ids: _Ids,
        session: SpanContext,
        of_turns: Mapping[str, Value],
    ) -> list[ReadableSpan]:
        """The turn that did not finish, from its request to the end of the session."""
        begin = _unix(result, result.failed_sent_at)
        if result.failure is None or result.failed_turn is None or begin is None:
            return []
        attributes = _known(
            {
                **of_turns,
                f"{OWN}turn": result.failed_turn,
                f"{OWN}request_id": result.failed_request_id,
                "error.type": str(result.failure.reason),
            }
        )
        end = result.started_time + result.duration_seconds
        span = self._span(
            (_turn_name(result), SpanKind.CLIENT),
            (ids.context(), session),
            (begin, max(begin, end)),
            attributes,
            _status(result),
        )
        return [span]

    def _span(
        self,
        what: tuple[str, SpanKind],
        contexts: tuple[SpanContext, SpanContext | None],
        times: tuple[float, float],
        attributes: Mapping[str, Value],
        status: Status = _UNSET,
    ) -> ReadableSpan:
        """`contexts` are its own and that of its parent; `times` are begin and end."""
        (name, kind), (context, parent) = what, contexts
        begin, end = map(nanoseconds, times)
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=kind,
            status=status,
            start_time=begin,
            end_time=end,
            instrumentation_scope=self._scope,
        )


class _Ids:
    """The contexts of one trace."""

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self._random_bits = random_bits
        self._trace = self._id(_TRACE_BITS)

    def context(self) -> SpanContext:
        """That of a new span."""
        sampled = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(self._trace, self._id(_SPAN_BITS), is_remote=False, trace_flags=sampled)

    def _id(self, bits: int) -> int:
        return self._random_bits(bits) or 1  # 0 is invalid


_REQUEST: Mapping[str, Value] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.stream": True,
}


def _turn_name(result: SessionResult) -> str:
    return "chat" if result.model is None else f"chat {result.model}"


def _common(result: SessionResult, labels: Mapping[str, str]) -> dict[str, Value]:
    return _known(
        {
            **{f"{OWN}label.{name}": value for name, value in labels.items()},
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": result.model,
            f"{OWN}target": result.target,
            f"{OWN}scenario": result.scenario,
            f"{OWN}simulated": result.simulated,
        }
    )


def _session_attributes(result: SessionResult) -> dict[str, Value]:
    totals = session_totals(result.turns)
    return _known(
        {
            f"{OWN}engine_version": result.engine_version,
            f"{OWN}heartbeat": result.heartbeat,
            f"{OWN}turns": len(result.turns),
            f"{OWN}notices": sorted(result.notices) or None,
            f"{OWN}prefix_stable": None if result.prefix is None else result.prefix.stable,
            f"{OWN}prompt_tokens": totals.prompt_tokens,
            f"{OWN}cached_tokens": totals.cached_tokens,
            f"{OWN}consumed_tokens": result.consumed_tokens,
            f"{OWN}data_parallel_rank": result.data_parallel_rank,
            "error.type": None if result.failure is None else str(result.failure.reason),
        }
    )


def _turn_attributes(turn: TurnFacts) -> dict[str, Value]:
    loss = turn.loss
    return _known(
        {
            "gen_ai.usage.input_tokens": turn.prompt_tokens,
            "gen_ai.usage.output_tokens": turn.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": turn.cached_tokens,
            "gen_ai.response.time_to_first_chunk": turn.ttft_seconds,
            f"{OWN}turn": turn.index,
            f"{OWN}ideal_cached_tokens": turn.ideal_cached_tokens,
            f"{OWN}attainable_cached_tokens": turn.attainable_cached_tokens,
            f"{OWN}external_cached_tokens": turn.external_cached_tokens,
            f"{OWN}hit_ratio": turn.hit_ratio,
            f"{OWN}efficiency_ratio": turn.efficiency_ratio,
            f"{OWN}lost_tokens": None if loss is None else loss.tokens,
            f"{OWN}loss_cause": None if loss is None else str(loss.cause),
            f"{OWN}rule_loss_causes": [str(part.cause) for part in turn.rule_losses] or None,
            f"{OWN}cold_ttft_seconds": turn.cold_ttft_seconds,
            f"{OWN}replica": turn.replica,
            f"{OWN}request_id": turn.request_id,
        }
    )


def _known(values: Mapping[str, Value | None]) -> dict[str, Value]:
    """Without what is unknown."""
    return {name: value for name, value in values.items() if value is not None}


def _server(url: str | None) -> dict[str, Value]:
    parts = urlsplit(url or "")
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return _known({"server.address": parts.hostname, "server.port": port})


def _unix(result: SessionResult, at: float | None) -> float | None:
    """The Unix time of a monotonic one within the session."""
    if at is None or result.started_at is None:
        return None
    return result.started_time + (at - result.started_at)


def _status(result: SessionResult) -> Status:
    if result.failure is None:
        return _UNSET
    return Status(StatusCode.ERROR, f"{result.failure.reason}: {result.failure.detail}")
