"""The prompt that the retention measurement writes and reads again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.scenario.model import Message

MATCH_UNITS = 4
"""Match units of a prefix. An engine evicts what was unused for longest, so most prefixes are whole
or gone. Four units still show a partial loss, also where a reuse rule drops one of them."""
_CHARACTERS_PER_TOKEN = 4.5
"""More than common tokenizers have for English, so the prefix is seldom too short."""
_NOTE = (
    "Entry {number}: the parcel was weighed, labelled and put on shelf {shelf}, where it waits for "
    "the van of the next morning. "
)


def prefix_messages(nonce: str, match_unit: int, max_model_len: int | None) -> list[Message]:
    """A prompt of about `MATCH_UNITS` match units, new if `nonce` is new.

    It takes at most half of the model's context.
    """
    tokens = (MATCH_UNITS + 1) * match_unit
    if max_model_len is not None:
        tokens = min(tokens, max_model_len // 2)
    characters = int(tokens * _CHARACTERS_PER_TOKEN)
    parts, length = [f"Log {nonce}. "], 0
    while length < characters:
        part = _NOTE.format(number=len(parts), shelf=len(parts) * 7 % 31)
        parts.append(part)
        length += len(part)
    text = "".join(parts)[: max(characters, 64)]
    return [{"role": "user", "content": f"{text}\nHow many entries are there?"}]
