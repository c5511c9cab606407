"""What the status page says of the targets: the template has no logic but loops. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter import words
from exporter.model import Notice
from exporter.notices import ADVICE, BREAK_ADVICE, FAILURE_ADVICE, break_in_words
from exporter.publish.container_view import container_facts, container_problems
from exporter.publish.cost_view import cost_facts
from exporter.publish.page_records import (
    Fact,
    Moment,
    Page,
    Problem,
    SessionRow,
    SessionSection,
    TargetSection,
    Tone,
    TurnRow,
)
from exporter.publish.readers import live_engine
from exporter.publish.state import ProbeSums
from exporter.session_json import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from exporter.model import (
        CacheConfig,
        EngineInfo,
        EngineSnapshot,
        EngineView,
        Loss,
        PrefixBreak,
        SessionResult,
        TurnFacts,
    )
    from exporter.publish.history import History
    from exporter.publish.state import TargetState

EARLIER_SESSIONS = 8


def page(targets: Mapping[str, TargetState], history: History, now: float, version: str) -> Page:
    sections = tuple(_section(state, history, now) for state in targets.values())
    summary = _summary(sections)
    return Page(
        version=version,
        now=_moment(now, now),
        summary=summary,
        title=f"{summary} vllm-cache-exporter",
        simulated=tuple(name for name, state in targets.items() if state.simulated),
        targets=sections,
    )


def _moment(unix_time: float, now: float) -> Moment:
    return Moment(words.moment(unix_time), rfc3339(unix_time), words.ago(unix_time, now))


def _summary(sections: Iterable[TargetSection]) -> str:
    tones = [section.tone for section in sections]
    if not tones:
        return "No targets."
    parts = [
        f"{tones.count(tone)} {word}" for tone, word in _SUMMARY_WORDS.items() if tone in tones
    ]
    noun = "target" if len(tones) == 1 else "targets"
    return f"{len(tones)} {noun}: {', '.join(parts)}."


_SUMMARY_WORDS: dict[Tone, str] = {"bad": "failing", "good": "up", "waiting": "not probed yet"}


def _section(state: TargetState, history: History, now: float) -> TargetSection:
    status, tone = _status(state)
    last = state.last_session
    return TargetSection(
        name=state.name,
        status=status,
        tone=tone,
        simulated=bool(state.simulated),
        problems=tuple(_problems(state)),
        notices=tuple(
            ADVICE[notice]
            for notice in sorted(last.notices if last else ())
            # The banner says the one, a problem with its place says the other.
            if notice not in (Notice.SIMULATED, Notice.PREFIX_UNSTABLE)
        ),
        facts=_facts(state),
        container=() if state.container is None else container_facts(state.container, now),
        session=None if last is None else _session(last, now),
        earlier=tuple(
            _session_row(result, now)
            for result in history.sessions(state.name, EARLIER_SESSIONS + 1)[1:]
        ),
    )


def _status(state: TargetState) -> tuple[str, Tone]:
    if state.last_session is None:
        return "No session has ended yet", "waiting"
    if state.last_session.failure is None:
        return "Up", "good"
    return "Failing", "bad"


def _problems(state: TargetState) -> list[Problem]:
    found = [] if state.container is None else container_problems(state.container)
    last = state.last_session
    if last is not None and last.failure is not None:
        place = (
            "before its first turn" if last.failed_turn is None else f"in turn {last.failed_turn}"
        )
        found.append(
            Problem(
                f"The last session failed {place}: {words.spaced(last.failure.reason)}",
                last.failure.detail,
                FAILURE_ADVICE[last.failure.reason],
            )
        )
    if state.engine is not None and state.engine.failure is not None:
        failure = state.engine.failure
        title = f"The engine's own metrics cannot be read: {words.spaced(failure.reason)}"
        found.append(Problem(title, failure.detail, ""))
    if last is not None and last.prefix is not None and not last.prefix.stable:
        found += [] if last.prefix.first_break is None else [_break(last.prefix.first_break)]
    return found


def _break(found: PrefixBreak) -> Problem:
    return Problem(
        f"The prompt is not stable from turn to turn: {words.spaced(found.reason)}",
        break_in_words(found),
        BREAK_ADVICE[found.reason],
    )


def _facts(state: TargetState) -> tuple[Fact, ...]:
    facts = [("Address", state.url), ("Mode", state.mode)]
    view = live_engine(state)
    if view is not None:
        facts += _info_facts(view.info) + _snapshot_facts(view.snapshot) + _traffic_facts(view)
    facts += cost_facts(state.cost)
    return tuple(Fact(name, value) for name, value in facts if value is not None)


def _info_facts(info: EngineInfo | None) -> list[tuple[str, str | None]]:
    return [] if info is None else [("Model", info.model), ("vLLM", info.version)]


def _snapshot_facts(snapshot: EngineSnapshot | None) -> list[tuple[str, str | None]]:
    if snapshot is None:
        return []
    return [
        *_cache_facts(snapshot.cache),
        ("Cache in use", _shown(words.percent, snapshot.kv_cache_usage_ratio)),
        ("Requests running", _shown(words.count, snapshot.requests_running)),
        ("Requests waiting", _shown(words.count, snapshot.requests_waiting)),
    ]


def _cache_facts(cache: CacheConfig | None) -> list[tuple[str, str | None]]:
    if cache is None:
        return []
    return [
        ("Prefix caching", {True: "on", False: "off", None: None}[cache.prefix_caching]),
        ("Cache block", _shown(words.tokens, cache.match_unit_tokens)),
        ("Cache capacity", _shown(words.tokens, cache.capacity_tokens)),
    ]


def _traffic_facts(view: EngineView) -> list[tuple[str, str | None]]:
    ratios = [
        (f"Hit ratio of all traffic, {window}", words.percent(ratio))
        for window, ratio in view.hit_ratios.items()
    ]
    return [*ratios, ("Restarts seen", str(view.restarts) if view.restarts else None)]


def _shown(write: Callable[[float], str], value: float | None) -> str | None:
    return None if value is None else write(value)


def _session(result: SessionResult, now: float) -> SessionSection:
    return SessionSection(
        scenario=result.scenario,
        started=_moment(result.started_time, now),
        duration=words.seconds(result.duration_seconds),
        finished=result.failure is None,
        verdict=_verdict(result),
        turns=tuple(_turn_row(turn) for turn in result.turns),
        losses=tuple(
            _loss(turn.index, turn.loss) for turn in result.turns if turn.loss is not None
        ),
    )


def _loss(turn: int, loss: Loss) -> str:
    lost = f"{words.tokens(loss.tokens)} lost, {words.spaced(loss.cause)}"
    return f"Turn {turn}: {lost} ({loss.evidence})"


def _verdict(result: SessionResult) -> str:
    if result.failure is not None:
        finished = len(result.turns)
        return {0: "No turn finished.", 1: "One turn finished."}.get(
            finished, f"{finished} turns finished."
        )
    sums = _sums(result)
    if sums.cached_tokens is None:
        return "How many prompt tokens came from cache is not known."
    served = (
        f"{words.count(sums.cached_tokens)} of {words.count(sums.prompt_tokens)} prompt tokens "
        f"came from cache ({words.percent(_hit_ratio(sums))})"
    )
    efficiency = _efficiency(sums)
    if efficiency is None:
        return f"{served}."
    return f"{served}, {words.percent(efficiency)} of what exact-prefix caching could have served."


def _sums(result: SessionResult) -> ProbeSums:
    sums = ProbeSums()
    for turn in result.turns:
        sums.add(turn)
    return sums


def _hit_ratio(sums: ProbeSums) -> float | None:
    return (
        sums.cached_tokens / sums.prompt_tokens
        if sums.cached_tokens is not None and sums.prompt_tokens
        else None
    )


def _efficiency(sums: ProbeSums) -> float | None:
    if not sums.ideal_cached_tokens:
        return None
    return 1 - sum(sums.lost_tokens.values()) / sums.ideal_cached_tokens


def _turn_row(turn: TurnFacts) -> TurnRow:
    return TurnRow(
        turn=turn.index,
        prompt=words.count(turn.prompt_tokens),
        completion=words.count(turn.completion_tokens),
        cached=words.count(turn.cached_tokens),
        ideal=words.count(turn.ideal_cached_tokens),
        hit_ratio=words.percent(turn.hit_ratio),
        efficiency=words.percent(turn.efficiency_ratio),
        ttft=words.seconds(turn.ttft_seconds),
        latency=words.seconds(turn.latency_seconds),
        hit_bar=_bar(turn.hit_ratio),
        ideal_bar=_bar(turn.ideal_hit_ratio),
    )


def _bar(ratio: float | None) -> float | None:
    return None if ratio is None else round(100 * min(max(ratio, 0.0), 1.0), 1)


def _session_row(result: SessionResult, now: float) -> SessionRow:
    sums = _sums(result)
    return SessionRow(
        started=_moment(result.started_time, now),
        outcome="finished"
        if result.failure is None
        else f"failed: {words.spaced(result.failure.reason)}",
        finished=result.failure is None,
        turns=len(result.turns),
        hit_ratio=words.percent(_hit_ratio(sums)),
        efficiency=words.percent(_efficiency(sums)),
        duration=words.seconds(result.duration_seconds),
    )
