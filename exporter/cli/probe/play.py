"""Plays the sessions of `probe`: one, several, or one after another until Ctrl-C."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.cli.probe.cold import ColdUnprovenError, stopping_if_unproven
from exporter.cli.serving import until_signal
from exporter.clock import SystemClock
from exporter.daemon.probing import new_salt
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionHooks
from exporter.probe.session.runner import SessionRunner
from exporter.report.progress import SessionProgress
from exporter.report.screen import console_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.cli.one_engine import EngineAccess
    from exporter.model.session import SessionResult

_TICK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many sessions to play, None for endless, and how long after each other they begin."""

    sessions: int | None
    interval_seconds: float
    cold: bool
    quiet: bool = False


@dataclass(slots=True)
class Played:
    """The sessions of one engine. `stopped` has the turns so far of the one that was stopped.

    `signal` is the number of the signal that stopped it, `unproven` why --cold stopped it.
    """

    url: str
    sessions: list[SessionResult] = field(default_factory=list)
    stopped: SessionResult | None = None
    signal: int | None = None
    unproven: ColdUnprovenError | None = None

    @property
    def interrupted(self) -> bool:
        return self.signal is not None or self.unproven is not None


async def play(
    engine: EngineAccess, wanted: Wanted, on_session: Callable[[SessionResult], None]
) -> Played:
    """Play the sessions and call `on_session` after each one that was not stopped.

    Raises `ColdUnprovenError` or `KeyboardInterrupt` if it was stopped before a request was sent.
    """
    player = _Player(engine, wanted, on_session)
    played = Played(engine.url, player.sessions)
    try:
        _, played.signal = await until_signal(
            player.play_all(), tick=player.tick, tick_seconds=_TICK_SECONDS
        )
    except ColdUnprovenError as error:
        played.unproven = error
    if played.interrupted:
        played.stopped = player.unfinished()
        if played.stopped is None and not played.sessions:
            raise played.unproven or KeyboardInterrupt
    return played


class _Player:
    """Plays sessions and keeps those that finished."""

    def __init__(
        self, engine: EngineAccess, wanted: Wanted, on_session: Callable[[SessionResult], None]
    ) -> None:
        control = ColdControl(1.0, random.random, new_salt) if wanted.cold else None
        self.sessions: list[SessionResult] = []
        self._wanted = wanted
        self._on_session = on_session
        self._max_tokens = engine.plan.max_tokens
        self._runner = SessionRunner(engine.plan, engine.requests, new_salt, control=control)
        self._progress: SessionProgress | None = None
        self._playing = False

    async def play_all(self) -> None:
        clock, wanted = SystemClock(), self._wanted
        while True:
            began = clock.monotonic()
            result = await self._play_one()
            self.sessions.append(result)
            self._on_session(result)
            if len(self.sessions) == wanted.sessions or self._is_hopeless():
                return
            await clock.sleep(max(0.0, began + wanted.interval_seconds - clock.monotonic()))

    def tick(self) -> None:
        if self._progress is not None:
            self._progress.tick()

    def unfinished(self) -> SessionResult | None:
        """What there is of the session that was stopped; None between two sessions."""
        return self._runner.so_far() if self._playing else None

    def _is_hopeless(self) -> bool:
        """Whether the first session failed before its first turn, as all others would."""
        first = self.sessions[0]
        return self._wanted.sessions is not None and first.failure is not None and not first.turns

    async def _play_one(self) -> SessionResult:
        progress = SessionProgress(
            *(console_on(sys.stderr), SystemClock().monotonic, self._max_tokens),
            cold=self._wanted.cold,
            quiet=self._wanted.quiet,
        )
        on_turn = progress.turn_ended
        hooks = SessionHooks(
            on_turn_start=progress.turn_started,
            on_request=progress.request_started,
            on_token=progress.token_received,
            on_turn=stopping_if_unproven(self._runner, on_turn) if self._wanted.cold else on_turn,
        )
        progress.start()
        self._progress, self._playing = progress, True
        try:
            result = await self._runner.play(hooks)
        finally:
            self._progress = None
            progress.stop()
        self._playing = False
        return result
