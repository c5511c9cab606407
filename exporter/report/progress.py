"""Progress of a session: the table of finished turns, and the running turn below it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.segment import Segments
from rich.text import Text

from exporter.report.session.table import turn_table
from exporter.wording import numbers
from exporter.wording.reuse_rules import GIVEN_UP

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType

    from exporter.model.session import TurnFacts

_BAR = 12
_MARGIN = 3  # columns kept free: the terminal echoes ^C there without a line break


@dataclass(frozen=True, slots=True)
class Running:
    """The running turn. `since` is when its request was sent, or when the session began.

    `chunks` counts the chunks of text so far; the number of tokens is known only at the end.
    `first_seconds` is from the request to the first chunk, as seen here.
    """

    since: float
    turn: int | None = None
    turns: int | None = None
    control: bool = False
    chunks: int = 0
    first_seconds: float | None = None


def running_line(running: Running, now: float, max_tokens: int) -> str:
    """One line on the running turn."""
    waited = f"{max(0.0, now - running.since):.1f} s"
    if running.turn is None:
        return f"reading the engine's model and metrics, and fitting the scenario, {waited}"
    place = f"turn {running.turn} of {running.turns}"
    if running.control:
        return f"{place}  cold control: the same prompt without cache, {waited}"
    if running.first_seconds is None:
        return f"{place}  waiting for the first token, {waited}"
    done = min(_BAR, round(_BAR * running.chunks / max_tokens))
    bar = f"{'━' * done}{'·' * (_BAR - done)}"
    first = numbers.seconds(running.first_seconds)
    return f"{place}  {bar}  {running.chunks} chunks so far, the first after about {first}"


def turn_line(turn: TurnFacts, turns: int | None) -> str:
    """One line on a finished turn, for a log or a pipe."""
    cached, prompt = numbers.count(turn.cached_tokens), numbers.count(turn.prompt_tokens)
    lost = "" if turn.loss is None else f", {numbers.count(turn.loss.tokens)} lost"
    given_up = sum(part.tokens for part in turn.rule_losses)
    ruled = f", {numbers.count(given_up)} {GIVEN_UP}" if given_up else ""
    return (
        f"turn {turn.index} of {numbers.count(turns)}: {cached} of {prompt} prompt tokens cached "
        f"({numbers.percent(turn.hit_ratio)}){lost}{ruled}, "
        f"first token {numbers.seconds(turn.ttft_seconds)}"
    )


@dataclass(slots=True)
class SessionProgress:
    """Shows one session on `console`, driven by the hooks of the session and by `tick`.

    Between a request and its first token it draws only one short line a few times a second
    (`tick`), so that drawing does not change the measured times. Without a terminal it prints one
    line for each finished turn.
    """

    console: Console
    clock: Callable[[], float]
    max_tokens: int
    cold: bool
    quiet: bool = False
    _live: Live | None = None
    _running: Running = field(init=False)
    _table: RenderableType = field(init=False)
    _turns: list[TurnFacts] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._running = Running(self.clock())
        self._table = Text("")
        if self.quiet:
            return
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                console=self.console, auto_refresh=False, transient=True, redirect_stdout=False
            )

    def start(self) -> None:
        if self._live is not None:
            self._live.start()
            self.tick()

    def stop(self) -> None:
        """Remove the display; later output takes its place."""
        if self._live is not None:
            self._live.stop()

    def tick(self) -> None:
        """Draw the line of the running turn."""
        if self._live is not None:
            line = Text(running_line(self._running, self.clock(), self.max_tokens), no_wrap=True)
            line.truncate(max(1, self.console.width - _MARGIN))
            self._live.update(Group(self._table, line), refresh=True)

    def turn_started(self, index: int, turns: int) -> None:
        if index == 1:
            self._turns.clear()  # a session may restart
        self._running = Running(self.clock(), index, turns)

    def request_started(self, control: bool) -> None:
        turn, turns = self._running.turn, self._running.turns
        self._running = Running(self.clock(), turn, turns, control)
        self.tick()
        self._running = replace(self._running, since=self.clock())  # without the time of drawing

    def token_received(self, chunks: int) -> None:
        first = self._running.first_seconds
        if first is None:
            first = self.clock() - self._running.since
        self._running = replace(self._running, chunks=chunks, first_seconds=first)

    def turn_ended(self, turn: TurnFacts) -> None:
        self._turns.append(turn)
        if self._live is None:
            if self.quiet:
                return
            self.console.print(turn_line(turn, self._running.turns), soft_wrap=True)
            return
        options = self.console.options
        table = turn_table(
            self._turns, width=options.max_width, ascii_only=options.ascii_only, cold=self.cold
        )
        self._table = Segments(
            list(self.console.render(table))
        )  # laid out once, drawn at every tick
        self.tick()
