"""Fits a scenario to an engine: long enough for its cache blocks, short enough for its context.

The engine's own /tokenize counts the tokens, with chat template and tools. If it is not served, the
number of tokens is estimated from the characters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from exporter.errors import ScenarioError
from exporter.scenario.model import estimate_tokens, fits

if TYPE_CHECKING:
    from exporter.engine.wire.request import Objects, RequestContext
    from exporter.model.engine import EngineInfo
    from exporter.scenario.model import Message, Scenario, ScenarioKind

_STEP = 500
"""Characters: the precision of the padding where the context is short."""
_SENTENCE = 100
"""Characters: padding is cut there."""
_ROUNDS = 4
_GENEROUS, _CLOSE = 1.1, 1.02
"""A prompt longer than `_GENEROUS` times the wanted length is shortened to `_CLOSE` times it."""
_CHARACTERS_PER_TOKEN = 4.5
"""More than common tokenizers have for English, so the first guess is seldom too short."""


class CountsTokens(Protocol):
    """Counts a prompt's tokens, as `TokenCounter` does."""

    async def count_tokens(self, model: str, messages: Objects, tools: Objects) -> int | None:
        """As `EngineClient.count_tokens`."""


class EngineTokenizer(Protocol):
    """Counts a prompt's tokens: `EngineClient`."""

    async def count_tokens(
        self, model: str, messages: Objects, tools: Objects, context: RequestContext | None = None
    ) -> int | None:
        """As `EngineClient.count_tokens`."""


class TokenCounter:
    """Counts with `client` until that fails once. Then `whole` is False, and nothing is counted.

    So a fit does not switch between counts and estimates again and again. A fit with `whole` False
    is not kept.
    """

    def __init__(self, client: EngineTokenizer, context: RequestContext | None = None) -> None:
        """`context` is that of the session whose prompts it counts."""
        self._client = client
        self._context = context
        self.whole = True

    async def count_tokens(self, model: str, messages: Objects, tools: Objects) -> int | None:
        """As `EngineClient.count_tokens`."""
        if not self.whole:
            return None
        counted = await self._client.count_tokens(model, messages, tools, self._context)
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
    """The scenario, and whether it was shortened.

    The first prompt gets at least `wanted_first_prompt` tokens if the scenario can be padded and
    the context is long enough, else as many as leave room for all turns. `reserved` tokens of the
    context stay free. Raises `ScenarioError` if not even two turns fit.
    """
    scenario, padding = await _long_enough(kind, client, info, wanted_first_prompt)
    turns = await _fitting_turns(scenario, client, info, max_tokens, reserved)
    if turns == len(scenario.steps):
        return scenario, False
    too_long = padding
    padding = 0
    while (
        kind.padded and too_long - padding > _STEP
    ):  # binary search for the longest padding that fits
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
            f"context of {info.max_model_len:,} tokens; raise --max-model-len or lower max_tokens"
        )
    return scenario.shortened(turns), True


async def _long_enough(
    kind: ScenarioKind, client: CountsTokens, info: EngineInfo, wanted: int | None
) -> tuple[Scenario, int]:
    """The scenario, and its padding in characters."""

    async def first_prompt(padding: int) -> int:
        scenario = kind.build(padding)
        return await _count(client, info, scenario, scenario.first_messages())

    if wanted is None or not kind.padded or (short := await first_prompt(0)) >= wanted:
        return kind.build(0), 0
    padding, tokens = 0, short
    for _ in range(_ROUNDS):
        padding += int((wanted - tokens) * _CHARACTERS_PER_TOKEN) + 1
        tokens = await first_prompt(padding)
        if tokens >= wanted:
            break
    if tokens > wanted * _GENEROUS:  # every turn would pay for the surplus
        per_token = padding / (tokens - short)
        closer = int((wanted * _CLOSE - short) * per_token) + _SENTENCE
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
    """The number of turns that fit. All turns are tried first, because they mostly fit."""

    async def fit_in(turns: int) -> bool:
        return await _fits_whole(scenario.shortened(turns), client, info, max_tokens, reserved)

    fitting, too_many = 0, len(scenario.steps)
    if await fit_in(too_many):
        return too_many
    while too_many - fitting > 1:  # binary search: a recorded session can have hundreds of turns
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
