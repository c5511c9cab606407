"""Plays one session when a client asks for it, within the limits of scheduled sessions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.analysis.load import UNKNOWN_TURN_TOKENS, session_tokens
from exporter.model.failure import Failure, FailureReason
from exporter.model.on_demand import IN_PROGRESS, STOPPING, OnDemandAnswer, OnDemandOutcome
from exporter.probe.admission import NotNowError
from exporter.probe.scheduled.session_probe import count_cut_off

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.model.session import SessionResult
    from exporter.probe.context import ProbeContext
    from exporter.probe.session.runner import SessionRunner
    from exporter.scenario.model import ScenarioKind

_TRY_AGAIN_SECONDS = 5.0
"""Another session of the exporter takes about as long."""
_TIMED_OUT = "the session did not end within the time that the client gave it"


@dataclass(slots=True)
class _Play:
    """One session on demand. `began` after it was admitted."""

    runner: SessionRunner
    began: bool = False


class OnDemandProbe:
    """Plays sessions of one target on demand, one at a time.

    They are charged to the budgets and counted in the exporter's own share as scheduled ones are.
    They are not the target's last session: they change no gauge and no sum of turns, because a
    client chooses their scenario and time.
    """

    def __init__(
        self, context: ProbeContext, runner_of: Callable[[ScenarioKind], SessionRunner]
    ) -> None:
        self._context = context
        self._runner_of = runner_of
        self._runners: dict[str, SessionRunner] = {}  # by scenario: each keeps its fitted prompts
        self._task: asyncio.Task[OnDemandAnswer] | None = None
        self._stopped = False

    async def play(self, kind: ScenarioKind, timeout_seconds: float | None) -> OnDemandAnswer:
        """Play one session, unless a limit forbids it. Cancelling this call ends the session."""
        if self._stopped or self._task is not None:
            return self._refused(STOPPING if self._stopped else IN_PROGRESS)
        runner = self._runners.setdefault(kind.name, self._runner_of(kind))
        play = _Play(runner)
        task = self._task = asyncio.create_task(
            self._play(play), name=f"on_demand:{self._context.target}"
        )
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_seconds)
            if not done:
                return self._timed_out(play)
            return self._refused(STOPPING) if task.cancelled() else task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})
            self._task = None

    async def stop(self) -> None:
        """End the running session, and play no more. Clients are refused."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _play(self, play: _Play) -> OnDemandAnswer:
        context = self._context
        try:
            async with context.admission.admitted_at_once() as charge:
                play.began = True
                charge.tokens = UNKNOWN_TURN_TOKENS  # a guess, for an unexpected exception
                try:
                    result = await play.runner.play()
                except asyncio.CancelledError:
                    count_cut_off(play.runner, context.sink, charge)
                    raise
                charge.tokens = session_tokens(result)
                charge.failure = result.failure.reason if result.failure else None
        except NotNowError as refusal:
            return self._refused(refusal.pause.reason, refusal.pause.seconds)
        context.sink.tokens_consumed(result.consumed_tokens)
        return _ended(result)

    def _timed_out(self, play: _Play) -> OnDemandAnswer:
        """With the turns so far. The client's patience is no fact about the engine."""
        if not play.began:
            return self._refused(IN_PROGRESS)
        so_far, reason = play.runner.so_far(), FailureReason.TURN_TIMEOUT
        if so_far is not None:
            so_far = replace(so_far, failure=Failure(reason, _TIMED_OUT))
        return OnDemandAnswer(self._context.target, OnDemandOutcome.TIMEOUT, reason, so_far)

    def _refused(self, reason: str, seconds: float = _TRY_AGAIN_SECONDS) -> OnDemandAnswer:
        return OnDemandAnswer(
            self._context.target, OnDemandOutcome.REFUSED, reason, retry_seconds=seconds
        )


def _ended(result: SessionResult) -> OnDemandAnswer:
    if result.failure is None:
        return OnDemandAnswer(result.target, OnDemandOutcome.FINISHED, session=result)
    reason = result.failure.reason
    return OnDemandAnswer(result.target, OnDemandOutcome.FAILED, reason, result)
