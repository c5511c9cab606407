"""A KV store beside the engines: it ignores salts and outlives each of their processes."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class KvStore:
    """The prefixes of all prompts, in chunks. With `chunk` None it finds only whole prompts.

    Whole prompts are without their last token, in blocks: so vLLM's ExampleConnector stores them.
    """

    def __init__(self, chunk: int | None, block_size: int) -> None:
        self._chunk = chunk
        self._block_size = block_size
        self._known: set[bytes] = set()

    def find(self, prompt: Sequence[int]) -> int:
        """How many tokens of the prompt it has."""
        found = 0
        for end, key in self._keys(prompt):
            if key not in self._known:
                break
            found = end
        return found

    def save(self, prompt: Sequence[int]) -> None:
        self._known.update(key for _, key in self._keys(prompt))

    def _keys(self, prompt: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        most = len(prompt) - 1  # the last token is always computed
        if self._chunk is None:
            whole = most // self._block_size * self._block_size
            ends = range(whole, whole + 1) if whole else range(0)
        else:
            ends = range(self._chunk, most + 1, self._chunk)
        hashed, before = blake2b(digest_size=16), 0
        for end in ends:
            hashed.update(array("q", prompt[before:end]).tobytes())
            before = end
            yield end, hashed.digest()
