"""Traces without texts: lengths, and what prompts share by the hashes of their blocks.

One JSON object a line, as in the traces that the Mooncake project published
(github.com/kvcache-ai/Mooncake, FAST25-release/traces): `timestamp` in milliseconds,
`input_length` and `output_length` in tokens, and `hash_ids`, one for each block of the prompt. Two
prompts share a block if they share its id, and an id stands for all that comes before it too.
`block_size` is 512 where a line does not say otherwise.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from exporter.errors import RecordingError
from exporter.model.recorded import Api, Message, RecordedRequest, RecordedUsage

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCK_TOKENS = 512
_MOST_TOKENS = 1 << 24
_FIRST_TOKEN, _TOKENS = 100, 900
"""Ids of tokens that every vocabulary has, and that are rarely special."""


def is_traced(record: Any) -> bool:
    """Whether a record is a line of a trace."""
    return isinstance(record, dict) and "hash_ids" in record and "input_length" in record


def traced_request(record: Mapping[str, Any], place: str) -> RecordedRequest:
    """A request with made-up tokens that shares with others what the trace says.

    Raises `RecordingError`, with the reason alone, if the line contradicts itself.
    """
    length, ids = record["input_length"], record["hash_ids"]
    block = record.get("block_size", _BLOCK_TOKENS)
    if not _is_count(length) or not _is_count(block) or not 0 < length <= _MOST_TOKENS:
        raise RecordingError(f"input_length must be a number of tokens, not {length!r}")
    if not isinstance(ids, list) or not all(_is_count(one) for one in ids):
        raise RecordingError("hash_ids must be a list of numbers")
    if block < 1 or not (len(ids) - 1) * block < length <= len(ids) * block:
        raise RecordingError(
            f"{len(ids)} hash_ids of {block} tokens cannot be a prompt of {length} tokens"
        )
    output, time = record.get("output_length"), record.get("timestamp")
    return RecordedRequest(
        place=place,
        api=Api.COMPLETIONS,
        body={"hash_ids": ids, "input_length": length, "block_size": block},
        model="",
        salt=None,
        settings=(),
        tools=(),
        messages=tuple(_block_message(one) for one in ids),
        usage=RecordedUsage(completion_tokens=output if _is_count(output) else None),
        time=time / 1000 if isinstance(time, int | float) and time >= 0 else None,
    )


def prompt_of(body: Mapping[str, Any]) -> array[int]:
    """The token ids of a line of a trace."""
    ids: array[int] = array("I")
    for one in body["hash_ids"]:
        ids += _block(one, body["block_size"])
    return ids[: body["input_length"]]


@lru_cache(maxsize=1 << 14)
def _block(hash_id: int, tokens: int) -> array[int]:
    """Token ids that differ from block to block, by a linear congruential generator (Knuth's)."""
    state, found = hash_id + 1, array("I")
    for _ in range(tokens):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        found.append(_FIRST_TOKEN + (state >> 33) % _TOKENS)
    return found


@lru_cache(maxsize=1 << 16)
def _block_message(hash_id: int) -> Message:
    """A block as a message, so that requests are put into conversations by their blocks."""
    letters = str(hash_id).translate(_LETTERS)
    return Message("user", (("content", letters),))


_LETTERS = str.maketrans("0123456789", "abcdefghij")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
