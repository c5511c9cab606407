"""Plays sessions in which an engine loses its cache: a reset, a restart, and eviction by others.

An engine is started twice, with a context in which sessions are short: first with the cache that it
takes by itself, then with one that has room for one prompt and little more. The second start is the
restart.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.cli.one_engine import engine_access
from exporter.config import Settings
from exporter.daemon.probing import new_salt
from exporter.probe.session.plan import SessionHooks
from exporter.probe.session.runner import SessionRunner
from real_engines.programs import EngineError, free_port, served
from real_engines.wire import first_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from exporter.cli.one_engine import EngineAccess
    from exporter.config import Target
    from exporter.model.reuse import ReuseRule
    from exporter.model.session import SessionResult
    from exporter.probe.engine_requests import EngineRequests
    from real_engines.recipes import Recipe, SmallCache

TURN = 5
"""The turn before which a cache is emptied, or the engine restarted."""
DEV_MODE = {"VLLM_SERVER_DEV_MODE": "1"}
"""vLLM has /reset_prefix_cache only with this variable."""
_SCRAPE_SECONDS = 10  # the limit of a scrape; a busy engine takes seconds
_REQUEST_SECONDS = 300
_SOME_WORDS = 200  # enough to measure tokens per word


@dataclass(frozen=True, slots=True)
class Played:
    """One session, and the reuse rule that was known before it. Without a fault, `turn` is None.

    `turn` is the one that the fault preceded.
    """

    fault: str
    turn: int | None
    known: ReuseRule | None
    result: SessionResult


@dataclass(slots=True)
class Interruption:
    """Acts once, before a turn of a session. Without `turn` it is the last one.

    The act runs in a thread, so that the session's connections see an engine that ends.
    """

    act: Callable[[], object]
    turn: int | None = None
    _due: bool = False
    _done: bool = False

    async def play(self, runner: SessionRunner, requests: EngineRequests) -> SessionResult:
        """Play a session with it."""
        requests.yield_turn = self._act_if_due  # the session awaits it before each turn
        return await runner.play(SessionHooks(on_turn_start=self._begin))

    def _begin(self, index: int, turns: int) -> None:
        self.turn = self.turn or turns
        self._due = index == self.turn and not self._done

    async def _act_if_due(self) -> None:
        if self._due and not self._done:
            self._done = True
            await asyncio.to_thread(self.act)


def empty_cache(url: str) -> None:
    """What an operator does with /reset_prefix_cache."""
    _post(f"{url}/reset_prefix_cache", {})


def fill_cache(url: str, small: SmallCache, model: str | None = None) -> None:
    """Prompts of another client, each answered with one token."""
    served_model = model or first_model(url)

    def of_words(count: int, number: int) -> dict[str, Any]:
        words = " ".join(["another"] * count)
        message = {"role": "user", "content": f"{number} {words}"}
        return {"model": served_model, "messages": [message]}

    counted = json.loads(_post(f"{url}/tokenize", of_words(_SOME_WORDS, 0)))["count"]
    enough = _SOME_WORDS * small.foreign_tokens // counted
    for number in range(small.foreign_prompts):
        _post(f"{url}/v1/chat/completions", of_words(enough, number) | {"max_tokens": 1})


def _post(url: str, body: Mapping[str, Any]) -> bytes:
    asked = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=_REQUEST_SECONDS) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise EngineError(f"{url}: {error}: {error.read(500)!r}") from error


def play_faults(recipe: Recipe, small: SmallCache, folder: Path) -> list[Played]:
    """Sessions with each fault, and one without a fault after each start, in that order.

    Raises `EngineError` if the engine does not start or refuses a fault.
    """
    return asyncio.run(_play(recipe, small, folder))


async def _play(recipe: Recipe, small: SmallCache, folder: Path) -> list[Played]:
    port = free_port()
    with ExitStack() as running:

        def start(log: str, flags: list[str]) -> str:
            running.close()  # the engine that ran before
            return running.enter_context(served(recipe, folder / log, port, flags, DEV_MODE))

        url = start("large.log", small.context_flags)
        faults = {
            "reset": Interruption(lambda: empty_cache(url), TURN),
            "restart": Interruption(lambda: start("small.log", small.flags), TURN),
            "eviction": Interruption(lambda: fill_cache(url, small, recipe.model)),
        }
        async with engine_access(*_settings(url, recipe)) as engine:
            sessions = _Sessions(engine)
            return [await sessions.play(name, faults.get(name)) for name in _ORDER]


_ORDER = ("none", "reset", "restart", "none", "eviction")


def _settings(url: str, recipe: Recipe) -> tuple[Settings, Target]:
    target = {"name": "engine", "url": url, **recipe.settings}
    scrape = {"interval_seconds": _SCRAPE_SECONDS, "timeout_seconds": _SCRAPE_SECONDS}
    settings = Settings.model_validate({"targets": [target], "scrape": scrape})
    return settings, settings.targets[0]


class _Sessions:
    """Plays the sessions of one target, as `probe` does."""

    def __init__(self, engine: EngineAccess) -> None:
        self._requests = engine.requests
        self._runner = SessionRunner(engine.plan, engine.requests, new_salt)

    async def play(self, name: str, fault: Interruption | None) -> Played:
        known = self._requests.knowledge.learned
        play = self._runner.play() if fault is None else fault.play(self._runner, self._requests)
        result = await play
        return Played(name, fault.turn if fault else None, known.told if known else None, result)
