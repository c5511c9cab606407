"""Judges the requests of a recording one by one: what each could reuse, and what was changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from exporter.analysis.requests.changes import changes
from exporter.analysis.requests.kinship import Kin
from exporter.analysis.requests.sharing import repeated_tokens
from exporter.analysis.reuse.cache_math import common_prefix
from exporter.analysis.reuse.rule import Earlier, prefix_of
from exporter.model.explained import Change, ChangeReason, ExplainedRequest, Place

if TYPE_CHECKING:
    from exporter.analysis.requests.kinship import Kinship
    from exporter.analysis.requests.sharing import Tokenized
    from exporter.analysis.requests.traces import Trace
    from exporter.analysis.reuse.learning import Learned
    from exporter.model.recorded import RecordedRequest

_KEPT_TOKENS = 100_000_000
"""Tokens of earlier requests that are kept to compare with: 400 MB."""
_MOST_CHANGES = 100
_LEAST_PIECE, _PIECE = 4, 16
"""Characters of a changed text that are looked for in the prompt."""


@dataclass(slots=True)
class Explanation:
    """The requests so far. `rules` is how the engine reuses blocks. `trace` gets them too, if any.

    `isolated`: each conversation has a salt of its own, as `--replay` sends them.
    """

    rules: Learned
    trace: Trace | None = None
    isolated: bool = False
    requests: list[ExplainedRequest] = field(default_factory=list)
    _kin: Kin = field(default_factory=Kin)
    _tokens: dict[int, Tokenized] = field(default_factory=dict)
    _kept: int = 0
    _conversations: int = 0

    def add(self, request: RecordedRequest, tokens: Tokenized) -> ExplainedRequest:
        """Judge the next request."""
        kinship = self._kin.add(request)
        conversation = self._conversation(kinship)
        explained = ExplainedRequest(
            request=request,
            conversation=conversation,
            parent=kinship.parent,
            prompt_tokens=len(tokens.prompt),
            reusable_tokens=self._reusable(request, conversation, tokens, kinship),
        )
        if kinship.parent is not None and kinship.parent in self._tokens:
            explained = self._compared(explained, tokens, kinship.parent)
        self._keep(explained, tokens)
        return explained

    def first_change_is_in(self, text: str) -> None:
        """Put the change that begins in `text` first in the last request. A template may write
        system prompt, tools and messages in any order.
        """
        one = self.requests[-1]
        found = next((each for each in one.changes if _begins_in(each, text)), None)
        if found is not None:
            others = (each for each in one.changes if each is not found)
            self.requests[-1] = replace(one, changes=(found, *others))

    def _conversation(self, kinship: Kinship) -> int:
        if kinship.parent is not None and not kinship.opening:
            return self.requests[kinship.parent].conversation
        self._conversations += 1
        return self._conversations

    def _reusable(
        self, request: RecordedRequest, conversation: int, tokens: Tokenized, kinship: Kinship
    ) -> int:
        earlier = [
            Earlier(len(known.prompt), common_prefix(tokens.prompt, known.sequence))
            for index in sorted(kinship.candidates)
            if (known := self._tokens.get(index)) is not None
            and self.requests[index].request.cache == request.cache
            and not (self.isolated and self.requests[index].conversation != conversation)
        ]
        return self.rules.span(prefix_of(len(tokens.prompt), earlier)).most

    def _compared(
        self, explained: ExplainedRequest, tokens: Tokenized, index: int
    ) -> ExplainedRequest:
        """The request with what was changed since the one at `index`, which it continues."""
        parent, known = self.requests[index].request, self._tokens[index]
        common = common_prefix(tokens.prompt, known.sequence)
        other_cache = parent.cache != explained.request.cache
        if common == len(known.sequence) and not other_cache:
            return explained
        used = 0 if other_cache else common
        start = max(explained.reusable_tokens, used)
        changed = repeated_tokens(tokens.prompt, start, known.sequence, used)
        if changed < self.rules.rule.unit_tokens:
            return replace(explained, parts_at=common)
        found = tuple(islice(changes(parent, explained.request), _MOST_CHANGES))
        unknown = Change(ChangeReason.TEMPLATE, Place("message"))
        return replace(
            explained, parts_at=common, changed_tokens=changed, changes=found or (unknown,)
        )

    def _keep(self, explained: ExplainedRequest, tokens: Tokenized) -> None:
        index = len(self.requests)
        self.requests.append(explained)
        if self.trace is not None:
            self.trace.add(explained.request, tokens)
        self._tokens[index] = tokens
        self._kept += len(tokens.prompt) + len(tokens.sequence)
        while self._kept > _KEPT_TOKENS and len(self._tokens) > 1:
            oldest = next(iter(self._tokens))
            dropped = self._tokens.pop(oldest)
            self._kept -= len(dropped.prompt) + len(dropped.sequence)


def _begins_in(change: Change, text: str) -> bool:
    piece = "".join(change.later.split())[:_PIECE]
    return len(piece) >= _LEAST_PIECE and piece in "".join(text.split())
