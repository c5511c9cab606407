"""Plays the sessions of `probe`: one, several, or one after another until Ctrl-C."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.cli.cold import ColdUnprovenError, stopping_if_unproven
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
    control = ColdControl(1.0, random.random, new_salt) if wanted.cold else None
    runner = SessionRunner(engine.plan, engine.requests, new_salt, control=control)
    clock, played = SystemClock(), Played(engine.url)
    while wanted.sessions is None or len(played.sessions) < wanted.sessions:
        began = clock.monotonic()
        await _play_one(engine, runner, played, cold=wanted.cold)
        if played.interrupted:
            break
        on_session(played.sessions[-1])
        if _is_unreachable(played.sessions) and wanted.sessions is not None:
            break
        if len(played.sessions) != wanted.sessions:
            rest = max(0.0, began + wanted.interval_seconds - clock.monotonic())
            _, signal = await until_signal(clock.sleep(rest))
            if signal is not None:
                played.signal = signal
                break
    return played


def _is_unreachable(sessions: list[SessionResult]) -> bool:
    """Whether the first session failed before its first turn, as all others would."""
    return len(sessions) == 1 and sessions[0].failure is not None and not sessions[0].turns


async def _play_one(
    engine: EngineAccess, runner: SessionRunner, played: Played, *, cold: bool
) -> None:
    """Play one session and add it, or what there is of it, to `played`."""
    progress = SessionProgress(
        console_on(sys.stderr), SystemClock().monotonic, engine.plan.max_tokens, cold
    )
    on_turn = progress.turn_ended
    hooks = SessionHooks(
        on_turn_start=progress.turn_started,
        on_request=progress.request_started,
        on_token=progress.token_received,
        on_turn=stopping_if_unproven(runner, on_turn) if cold else on_turn,
    )
    result = None
    progress.start()
    try:
        result, played.signal = await until_signal(
            runner.play(hooks), tick=progress.tick, tick_seconds=_TICK_SECONDS
        )
    except ColdUnprovenError as error:
        played.unproven = error
    finally:
        progress.stop()
    if result is not None:
        played.sessions.append(result)
        return
    played.stopped = runner.so_far()
    if played.stopped is None and not played.sessions:
        raise played.unproven or KeyboardInterrupt
