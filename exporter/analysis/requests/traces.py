"""Makes a trace of requests: lengths and shared blocks, and no text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.analysis.requests.sharing import Tokenized
    from exporter.model.recorded import RecordedRequest

_Block = tuple[int, bytes]


@dataclass(slots=True)
class Trace:
    """The lines of a trace. `block_tokens` is the length of a block.

    A block's id counts up from 0 in the order in which blocks come. It says nothing of the text.
    """

    block_tokens: int
    lines: list[dict[str, Any]] = field(default_factory=list)
    _ids: dict[_Block, int] = field(default_factory=dict)
    _caches: dict[tuple[str, str | None], int] = field(default_factory=dict)
    _began: float | None = None

    def add(self, request: RecordedRequest, tokens: Tokenized) -> None:
        """Add the next request."""
        if self._began is None:
            self._began = request.time
        output = request.usage.completion_tokens
        if output is None:
            output = len(tokens.sequence) - len(tokens.prompt)
        line: dict[str, Any] = {"input_length": len(tokens.prompt), "output_length": output}
        if request.time is not None and self._began is not None:
            line = {"timestamp": max(0, round((request.time - self._began) * 1000)), **line}
        line |= {"hash_ids": self._hash_ids(request, tokens), "block_size": self.block_tokens}
        self.lines.append(line)

    def _hash_ids(self, request: RecordedRequest, tokens: Tokenized) -> list[int]:
        # Requests to other models or salts share nothing, so their first blocks differ.
        before = -1 - self._caches.setdefault(request.cache, len(self._caches))
        found = []
        for start in range(0, len(tokens.prompt), self.block_tokens):
            block = tokens.prompt[start : start + self.block_tokens].tobytes()
            before = self._ids.setdefault((before, block), len(self._ids))
            found.append(before)
        return found
