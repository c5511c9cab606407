"""Plays the sessions of a comparison in rounds: one on each engine, in random order."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

from exporter.analysis.session_totals import session_totals
from exporter.cli.one_engine import engine_access
from exporter.cli.probe.cold import stopping_if_unproven
from exporter.daemon.probing import new_salt
from exporter.errors import ExporterError
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionHooks
from exporter.probe.session.runner import SessionRunner
from exporter.wording import numbers
from exporter.wording.verdict import failure_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AsyncExitStack

    from exporter.cli.one_engine import EngineAccess
    from exporter.config import Settings, Target
    from exporter.engine.scraper import Scraper
    from exporter.model.session import SessionResult


@dataclass(slots=True)
class Player:
    """One engine, and its sessions of complete rounds."""

    name: str
    url: str
    scraper: Scraper
    runner: SessionRunner
    hooks: SessionHooks
    sessions: list[SessionResult] = field(default_factory=list)


async def players_of(
    settings: Settings,
    targets: Mapping[str, Target],
    stack: AsyncExitStack,
    *,
    cold: bool = False,
) -> list[Player]:
    """A player for each target, by its name. They work as long as `stack` is open.

    All play the same scenario, and their first prompts have the same length: the longest that one
    of the engines gets alone.
    """
    engines = {
        name: await stack.enter_async_context(engine_access(settings, target))
        for name, target in targets.items()
    }
    longest = max([await _opening_tokens(engine) for engine in engines.values()])
    players = []
    for name, engine in engines.items():
        plan = replace(engine.plan, others=(), opening=lambda _unit, _capacity: longest)
        control = ColdControl(1.0, random.random, new_salt) if cold else None
        runner = SessionRunner(plan, engine.requests, new_salt, control=control)
        hooks = SessionHooks(on_turn=stopping_if_unproven(runner)) if cold else SessionHooks()
        players.append(Player(name, engine.url, engine.scraper, runner, hooks))
    return players


async def _opening_tokens(engine: EngineAccess) -> int:
    """The length of the first prompt that this engine wants."""
    view = await engine.scraper.refresh()
    cache = view.snapshot.cache if view.snapshot else None
    unit, capacity = (cache.match_unit_tokens, cache.capacity_tokens) if cache else (None, None)
    return engine.plan.opening(unit, capacity) or 0


async def play_rounds(players: Sequence[Player], rounds: int, show: Callable[[str], None]) -> None:
    """Play rounds and add the complete ones to the players' `sessions`. `show` gets the progress.

    The first of two rounds has a random order, the second the reverse order, so that a drift, such
    as the load of a shared machine, affects all engines alike. Raises `ExporterError` if the first
    session on an engine fails, and `ColdUnprovenError` if cold controls prove nothing.
    """
    order: list[Player] = []
    for number in range(1, rounds + 1):
        order = order[::-1] if number % 2 == 0 else random.sample(players, len(players))
        played: dict[str, SessionResult] = {}
        for player in order:
            result = await player.runner.play(player.hooks)
            if number == 1 and result.failure is not None:
                raise ExporterError(f"{player.name} ({player.url}): {failure_in_words(result)}")
            played[player.name] = result
            show(f"session {number} of {rounds} on {player.name}: {_in_short(result)}")
        for player in players:
            player.sessions.append(played[player.name])


def show_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show_nothing(_line: str) -> None:
    """The progress of `--quiet`."""


def _in_short(result: SessionResult) -> str:
    if result.failure is not None:
        return failure_in_words(result)
    known = [turn.ttft_seconds for turn in result.turns[1:] if turn.ttft_seconds is not None]
    cold = [t.cold_ttft_seconds for t in result.turns if t.cold_ttft_seconds is not None]
    parts = [
        f"{numbers.percent(session_totals(result.turns).hit_ratio)} of prompts from cache",
        f"median TTFT after turn 1 {numbers.seconds(median(known) if known else None)}",
    ]
    return ", ".join([*parts, *([f"cold {numbers.seconds(median(cold))}"] if cold else [])])
