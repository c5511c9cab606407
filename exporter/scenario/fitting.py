"""Making a scenario fit an engine: long enough for its cache blocks, short enough for its context.

The tokens are counted by the engine's own /tokenize where it is served, with the chat template and
the tools in, and guessed from the characters where it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from exporter.errors import ScenarioError
from exporter.scenario.model import estimate_tokens, fits

if TYPE_CHECKING:
    from exporter.engine.wire.request import Objects
    from exporter.model.engine import EngineInfo
    from exporter.scenario.model import Message, Scenario, ScenarioKind

_PADDING = 4000
"""Characters of padding that make the opening as long as a small agent's own."""
_STEP = 500
"""Characters: the padding is looked for no closer, a section of it is about as long."""
_ROUNDS = 4
_GENEROUS, _CLOSE = 1.1, 1.02
"""From where on too long a prompt is made anew, and to how much more than is wanted."""
_CHARACTERS_PER_TOKEN = 4.5
"""More than any common tokenizer needs for English, so that the first guess is seldom short."""


class CountsTokens(Protocol):
    """Whatever counts a prompt's tokens: the client, or what stands before it."""

    async def count_tokens(self, model: str, messages: Objects, tools: Objects) -> int | None:
        """As `EngineClient.count_tokens`."""


class TokenCounter:
    """Counts as `client` does until it once does not; then `whole` is False and it stays silent.

    So one fit has all of its figures from one place but for the moment at which the engine falls
    silent, and such a fit is not to be kept.
    """

    def __init__(self, client: CountsTokens) -> None:
        self._client = client
        self.whole = True

    async def count_tokens(self, model: str, messages: Objects, tools: Objects) -> int | None:
        """As `EngineClient.count_tokens`."""
        counted = await self._client.count_tokens(model, messages, tools) if self.whole else None
        self.whole = counted is not None
        return counted


async def fit(
    kind: ScenarioKind,
    client: CountsTokens,
    info: EngineInfo,
    wanted_first_prompt: int | None,
    max_tokens: int,
    *,
    reserved: int = 0,
) -> tuple[Scenario, bool]:
    """The scenario and whether it had to be shortened.

    The first prompt gets at least `wanted_first_prompt` tokens if the context allows it and the
    scenario can be padded, else as many as leave room for all turns. `reserved` tokens of the
    context stay free. Raises `ScenarioError` if not even two turns fit.
    """
    scenario, padding = await _long_enough(kind, client, info, wanted_first_prompt)
    turns = await _fitting_turns(scenario, client, info, max_tokens, reserved)
    if turns == len(scenario.steps):
        return scenario, False
    too_long = padding
    padding = 0
    while kind.padded and too_long - padding > _STEP:  # halving, for the longest that fits
        middle = (padding + too_long) // 2
        if await _fits_whole(kind.build(middle), client, info, max_tokens, reserved):
            padding = middle
        else:
            too_long = middle
    scenario = kind.build(padding)
    turns = await _fitting_turns(scenario, client, info, max_tokens, reserved)
    if turns < 2:  # noqa: PLR2004 - a hit needs a turn before it
        raise ScenarioError(
            f"the scenario {kind.name!r} does not fit: two turns need more than the model's "
            f"context of {info.max_model_len} tokens; raise --max-model-len or lower max_tokens"
        )
    return scenario.shortened(turns), True


async def _long_enough(
    kind: ScenarioKind, client: CountsTokens, info: EngineInfo, wanted: int | None
) -> tuple[Scenario, int]:
    """The scenario and the characters of its padding."""

    async def first_prompt(padding: int) -> int:
        scenario = kind.build(padding)
        return await _count(client, info, scenario, scenario.first_messages())

    padding = _PADDING
    if wanted is None or not kind.padded or (short := await first_prompt(padding)) >= wanted:
        return kind.build(padding), padding
    tokens = short
    for _ in range(_ROUNDS):
        padding += int((wanted - tokens) * _CHARACTERS_PER_TOKEN) + 1
        tokens = await first_prompt(padding)
        if tokens >= wanted:
            break
    if tokens > wanted * _GENEROUS:  # large blocks: what is too much would be paid at each turn
        per_token = (padding - _PADDING) / (tokens - short)
        closer = _PADDING + int((wanted * _CLOSE - short) * per_token) + _STEP
        if closer < padding and await first_prompt(closer) >= wanted:
            padding = closer
    return kind.build(padding), padding


async def _fits_whole(
    scenario: Scenario, client: CountsTokens, info: EngineInfo, max_tokens: int, reserved: int
) -> bool:
    tokens = await _count(client, info, scenario, scenario.all_messages())
    return fits(tokens + reserved, scenario.answers(), max_tokens, info.max_model_len)


async def _fitting_turns(
    scenario: Scenario, client: CountsTokens, info: EngineInfo, max_tokens: int, reserved: int
) -> int:
    """How many turns fit; the whole is tried first, since it nearly always fits."""

    async def fit_in(turns: int) -> bool:
        return await _fits_whole(scenario.shortened(turns), client, info, max_tokens, reserved)

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
    client: CountsTokens, info: EngineInfo, scenario: Scenario, messages: list[Message]
) -> int:
    counted = await client.count_tokens(info.model, messages, scenario.tools)
    return counted if counted is not None else estimate_tokens(messages, scenario.tools)
