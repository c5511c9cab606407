"""The reuse rule of an engine: how much of a prefix that it has computed it serves from cache."""

# No `from __future__ import annotations`: pydantic reads these types at run time.

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field, with_config

from exporter.model.json_fields import JSON, Tokens


class RuleCause(StrEnum):
    """The part of a reuse rule that gives up tokens. None of them is a fault."""

    SPECULATIVE_DECODING = "speculative_decoding"
    ANSWER_NOT_KEPT = "answer_not_kept"
    UNIT = "unit"
    STORE_CHUNK = "store_chunk"  # a KV store served a turn in whole chunks of its own


@with_config(JSON | {"title": "ReuseRuleJson"})
@dataclass(frozen=True, slots=True)
class ReuseRule:
    """What one engine process serves of a prefix that it has computed (docs/engines.md).

    A part is null while what was seen allows both.
    """

    unit_tokens: Annotated[int, Field(ge=1)] | None
    """Hits are multiples of this."""
    dropped_blocks: Annotated[int, Field(ge=0)] | None
    """Units that the engine drops from the end of each hit, as with EAGLE and MTP."""
    answers_kept: bool | None
    """Whether the blocks that an answer filled serve a later request."""
    lookahead_tokens: Tokens
    """Up to so many tokens at the end of a known prefix may not count."""


@with_config(JSON | {"title": "RuleLossJson"})
@dataclass(frozen=True, slots=True)
class RuleLoss:
    """Tokens of one turn that the engine's reuse rule gives up."""

    tokens: Tokens
    cause: RuleCause
