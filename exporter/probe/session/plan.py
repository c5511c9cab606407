"""The plan of a session, and the hooks that show its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.scenario.opening import wanted_opening

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.engine.wire.request import Deadlines
    from exporter.model.engine import Adapters
    from exporter.model.session import TurnFacts
    from exporter.scenario.model import ScenarioKind
    from exporter.scenario.opening import Opening


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What all sessions of one target have in common. `max_tokens` limits each answer.

    Sessions take turns with `kind` and `others`, one scenario a session. The first prompt of a
    session is as long as `opening` wants it, if the scenario can be padded. `adapters` are LoRA
    adapters that they take turns with, beside the model. Without `learns`, hits do not teach the
    engine's reuse rule: short prompts fit many rules.
    """

    target: str
    kind: ScenarioKind
    max_tokens: int
    deadlines: Deadlines
    opening: Opening = wanted_opening
    others: tuple[ScenarioKind, ...] = ()
    adapters: Adapters = ()
    learns: bool = True

    def kind_of(self, session: int) -> ScenarioKind:
        """The scenario of session number `session` (0…)."""
        kinds = (self.kind, *self.others)
        return kinds[session % len(kinds)]

    def round_of(self, session: int) -> int:
        """How often each scenario was played before that session. Each round has one adapter."""
        return session // (1 + len(self.others))


@dataclass(slots=True)
class SessionHooks:
    """Callbacks that show progress. They must be quick: the session waits for them.

    `on_turn_start` gets the turn and the number of turns. `on_request` is called just before a
    request is sent: False for the turn's own, True for its cold control. `on_token` gets the number
    of chunks so far.
    """

    on_turn_start: Callable[[int, int], None] = lambda _turn, _turns: None
    on_request: Callable[[bool], None] = lambda _control: None
    on_token: Callable[[int], None] = lambda _chunks: None
    on_turn: Callable[[TurnFacts], None] = lambda _facts: None
