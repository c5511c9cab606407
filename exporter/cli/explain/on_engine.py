"""`explain --url`: exact tokens, the rule of the engine, and `--replay`."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.analysis.prefill_cost import Point, points_of, prefill_cost
from exporter.analysis.requests.explaining import Explanation
from exporter.analysis.requests.sharing import Tokenized
from exporter.analysis.requests.traces import Trace
from exporter.analysis.reuse.learning import Learned
from exporter.analysis.reuse.rule import Rule
from exporter.cli.one_engine import open_engine
from exporter.cli.probe.play import Wanted, play
from exporter.clock import SystemClock
from exporter.daemon.probing import new_salt
from exporter.errors import ConfigError, EngineUnavailableError, ExporterError
from exporter.model.explained import ExplainedRecording
from exporter.model.failure import FailureReason
from exporter.model.recorded import Skipped
from exporter.probe.recorded.rendering import Renderer
from exporter.probe.recorded.replay import Replay
from exporter.report.screen import console_on
from exporter.wording.verdict import failure_in_words

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from exporter.cli.one_engine import EngineAccess
    from exporter.model.explained import ReplayedRequest
    from exporter.model.recorded import RecordedRequest
    from exporter.model.session import SessionResult
    from exporter.recording.reading import Recording

_AFTER_TOKENS = 48
_OF_ONE_REQUEST = {
    *(FailureReason.BAD_REQUEST, FailureReason.PROMPT_TOO_LONG, FailureReason.PROTOCOL),
    *(FailureReason.SERVER_ERROR, FailureReason.MODEL_NOT_FOUND),
}
"""Failures after which the next request may still be rendered."""


async def explained_on(
    options: argparse.Namespace, recordings: Sequence[Recording]
) -> list[ExplainedRecording]:
    """What the requests could reuse on the engine that the options name.

    A session is played first: it shows the engine's rule and what a token costs it.
    """
    async with AsyncExitStack() as stack:
        engine = await open_engine(options, stack)
        session = await _session(engine)
        renderer = Renderer(engine.requests.client, (await engine.requests.client.info()).model)
        reader = _Reader(options, engine, session, renderer)
        return [await reader.explained(recording) for recording in recordings]


@dataclass(frozen=True, slots=True)
class _Reader:
    """What all recordings are explained with."""

    options: argparse.Namespace
    engine: EngineAccess
    session: SessionResult
    renderer: Renderer

    async def explained(self, recording: Recording) -> ExplainedRecording:
        """What the requests of one recording could reuse."""
        engine, renderer = self.engine, self.renderer
        rules = _rules(engine)
        client = engine.requests.client
        unit = rules.rule.unit_tokens
        trace = Trace(unit) if self.options.trace is not None else None
        explained, alone = Explanation(rules, trace), Explanation(rules, isolated=True)
        skipped = list(recording.skipped)
        with _progress("reading tokens", len(recording.requests)) as tick:
            for request in recording.requests:
                tick()
                tokens = await _tokens(renderer, request, skipped)
                if tokens is not None:
                    one = explained.add(request, tokens)
                    if len(one.changes) > 1 and one.parts_at is not None:
                        part = tokens.prompt[one.parts_at : one.parts_at + _AFTER_TOKENS]
                        text = await client.detokenize(renderer.model_of(request), part)
                        explained.first_change_is_in(text or "")
                    if self.options.replay:  # which has no answers
                        alone.add(request, Tokenized(tokens.prompt, tokens.prompt))
        if not explained.requests:
            raise ConfigError(f"{recording.source}: {skipped[-1].place}: {skipped[-1].reason}")
        replayed = None
        if self.options.replay:
            _check_budget(alone, engine)
            replayed = await _replayed(engine, renderer, alone, self.options)
        cost = prefill_cost([*points_of(self.session.turns), *_points(replayed or ())])
        return ExplainedRecording(
            source=recording.source,
            requests=explained.requests,
            skipped=skipped,
            unit_tokens=unit,
            trace=None if trace is None else trace.lines,
            engine=engine.url,
            seconds_per_token=None if cost is None else cost.seconds_per_token,
            replayed=replayed,
        )


async def _session(engine: EngineAccess) -> SessionResult:
    """A session with cold controls. Raises `ExporterError` if it failed."""
    played = await play(engine, Wanted(1, 0.0, cold=True, quiet=True), lambda _result: None)
    if played.unproven is not None:
        raise played.unproven
    if not played.sessions:
        raise KeyboardInterrupt
    session = played.sessions[0]
    if session.failure is not None:
        raise ExporterError(f"{engine.url}: {failure_in_words(session)}")
    return session


def _rules(engine: EngineAccess) -> Learned:
    """The engine's rule, or blocks of the size on /metrics while the rule is not clear."""
    knowledge = engine.requests.knowledge
    if knowledge.learned is not None:
        return knowledge.learned
    if knowledge.label is None:
        raise ExporterError(
            f"{engine.url} does not say in which blocks it reuses prompts: no block size on "
            "/metrics, and no hit. `check` says what is wrong with its cache."
        )
    return Learned(Rule(knowledge.label))


async def _tokens(
    renderer: Renderer, request: RecordedRequest, skipped: list[Skipped]
) -> Tokenized | None:
    try:
        return await renderer.tokenized(request)
    except EngineUnavailableError as error:
        if error.reason not in _OF_ONE_REQUEST:
            raise
        skipped.append(Skipped(request.place, f"the engine refuses it: {error.detail}"))
        return None


def _check_budget(explained: Explanation, engine: EngineAccess) -> None:
    """Raises `ConfigError` if a replay would send more than an hour's tokens."""
    wanted = sum(one.prompt_tokens for one in explained.requests)
    allowed = engine.settings.tokens_per_hour
    if 0 < allowed < wanted:
        raise ConfigError(
            f"--replay would send {wanted:,} tokens, more than probe.tokens_per_hour = "
            f"{allowed:,} allows: give a part of the file, or --probe.tokens_per_hour {wanted}"
        )


async def _replayed(
    engine: EngineAccess, renderer: Renderer, alone: Explanation, options: argparse.Namespace
) -> list[ReplayedRequest]:
    replay = Replay(
        engine.requests.client,
        renderer,
        SystemClock(),
        new_salt(),
        seconds=engine.settings.turn_timeout_seconds,
        recorded_pace=options.pace == "recorded",
    )
    found = []
    with _progress("sending", len(alone.requests)) as tick:
        async for one in replay.play(alone.requests):
            tick()
            found.append(one)
    return found


def _points(replayed: Sequence[ReplayedRequest]) -> Iterator[Point]:
    for one in replayed:
        if one.prompt_tokens is not None and one.cached_tokens is not None and one.seconds:
            yield Point(one.prompt_tokens - one.cached_tokens, one.seconds)


@contextmanager
def _progress(what: str, requests: int) -> Iterator[Callable[[], None]]:
    """Shows in a terminal which request it is at."""
    console, done = console_on(sys.stderr), 0
    with console.status(what) as status:

        def tick() -> None:
            nonlocal done
            done += 1
            status.update(f"{what}: request {done:,} of {requests:,}")

        yield tick
