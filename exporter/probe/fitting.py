"""Making a scenario fit an engine: long enough for its cache blocks, short enough for its context.

The tokens are counted by the engine's own /tokenize where it is served, with the chat template and
the tools in, and guessed from the characters where it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.errors import ScenarioError
from exporter.probe.scenario import estimate_tokens, fits

if TYPE_CHECKING:
    from exporter.engine.client import EngineClient
    from exporter.model import EngineInfo
    from exporter.probe.scenario import Message, Scenario, ScenarioKind

_PADDING = 4000
"""Characters of padding that make the opening as long as a small agent's own."""
_ROUNDS = 4
_CHARACTERS_PER_TOKEN = 4.5
"""More than any common tokenizer needs for English, so that the first guess is seldom short."""


async def fit(
    kind: ScenarioKind,
    client: EngineClient,
    info: EngineInfo,
    wanted_first_prompt: int | None,
    max_tokens: int,
) -> tuple[Scenario, bool]:
    """The scenario and whether it had to be shortened.

    The first prompt gets at least `wanted_first_prompt` tokens if the context allows it and the
    scenario can be padded. Raises `ScenarioError` if not even two turns fit.
    """
    scenario = await _long_enough(kind, client, info, wanted_first_prompt)
    turns = await _fitting_turns(scenario, client, info, max_tokens)
    if turns == len(scenario.steps):
        return scenario, False
    for padding in (_PADDING, _PADDING // 2, _PADDING // 4, 0) if kind.padded else ():
        scenario = kind.build(padding)
        turns = await _fitting_turns(scenario, client, info, max_tokens)
        if turns == len(scenario.steps):
            break
    if turns < 2:  # noqa: PLR2004 - a hit needs a turn before it
        raise ScenarioError(
            f"the scenario {kind.name!r} does not fit: two turns need more than the model's "
            f"context of {info.max_model_len} tokens; raise --max-model-len or lower max_tokens"
        )
    return scenario.shortened(turns), True


async def _long_enough(
    kind: ScenarioKind, client: EngineClient, info: EngineInfo, wanted: int | None
) -> Scenario:
    padding = _PADDING
    scenario = kind.build(padding)
    for _ in range(_ROUNDS if wanted and kind.padded else 0):
        tokens = await _count(client, info, scenario, scenario.first_messages())
        missing = (wanted or 0) - tokens
        if missing <= 0:
            break
        padding += int(missing * _CHARACTERS_PER_TOKEN) + 1
        scenario = kind.build(padding)
    return scenario


async def _fitting_turns(
    scenario: Scenario, client: EngineClient, info: EngineInfo, max_tokens: int
) -> int:
    """How many turns fit; the whole is tried first, since it nearly always fits."""

    async def fit_in(turns: int) -> bool:
        part = scenario.shortened(turns)
        tokens = await _count(client, info, part, part.all_messages())
        return fits(tokens, part.answers(), max_tokens, info.max_model_len)

    fitting, too_many = 0, len(scenario.steps)
    if await fit_in(too_many):
        return too_many
    while too_many - fitting > 1:  # halving: a recorded session may have hundreds of turns
        middle = (fitting + too_many) // 2
        if await fit_in(middle):
            fitting = middle
        else:
            too_many = middle
    return fitting


async def _count(
    client: EngineClient, info: EngineInfo, scenario: Scenario, messages: list[Message]
) -> int:
    counted = await client.count_tokens(info.model, messages, scenario.tools)
    return counted if counted is not None else estimate_tokens(messages, scenario.tools)
