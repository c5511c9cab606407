"""What the answers of one engine process showed of its cache, kept from session to session. Pure.

Another process begins with a new one: it may be another version with other flags.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from exporter.analysis.cache.match_unit import Hit, match_unit
from exporter.analysis.cache.transfer import whole, without_transfer

if TYPE_CHECKING:
    from collections.abc import Collection

    from exporter.model.chat import Usage

_HITS_KEPT = 64
"""About the last nine sessions."""


class EngineMemory:
    """Shared by all that asks one process.

    `label` is the match unit that its /metrics names. `hit`: a prompt of the exporter was served
    from cache when it was sent a second time. `transfers`: usage counts as cached what came from
    another engine. `no_system`: the chat template refuses a system message. `tried_beside`: a
    prompt that missed twice was sent twice at the same time.
    """

    def __init__(self) -> None:
        self.label: int | None = None
        self.hit = False
        self.transfers = False
        self.no_system = False
        self.tried_beside = False
        self._hits: deque[Hit] = deque(maxlen=_HITS_KEPT)

    @property
    def match_unit(self) -> int | None:
        """The unit that hits land on; None where it is not known, or while hits leave it open."""
        return match_unit(self.label, self._hits)

    @property
    def likely_unit(self) -> int | None:
        """What the unit is taken for while hits leave it open: for lengths, never for an ideal."""
        return self.match_unit or self.label

    @property
    def label_is_wrong(self) -> bool:
        """Whether hits show that the unit is another one than /metrics says."""
        unit, label = self.match_unit, self.label
        if label is None or unit == label:
            return False
        return unit is not None or any(hit.cached % label for hit in self._hits)

    @property
    def hits(self) -> Collection[Hit]:
        """Those of the latest turns, in order."""
        return tuple(self._hits)

    def saw(self, hit: Hit) -> None:
        """A turn hit; one that hit nothing tells no unit."""
        if hit.cached > 0:
            self._hits.append(hit)

    def sent_new(self, usage: Usage | None) -> Usage | None:
        """Usage of a prompt that nobody can have sent before: with words of its own at the head."""
        if whole(usage, self.label):
            self.transfers = True
        return self.hits_only(usage)

    def hits_only(self, usage: Usage | None) -> Usage | None:
        """Usage whose cached tokens, where they are known, are a hit."""
        return without_transfer(usage, self.label) if self.transfers else usage
