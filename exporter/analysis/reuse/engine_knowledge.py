"""What the answers of one engine process showed about its cache, kept from session to session.

A new process gets a new one: it may be another version with other flags.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from exporter.analysis.reuse.kv_transfer import counts_all_as_cached, without_transfer
from exporter.analysis.reuse.match_unit import Hit, match_unit

if TYPE_CHECKING:
    from collections.abc import Collection

    from exporter.model.chat import Usage

_HITS_KEPT = 64
"""About the last nine sessions."""


class EngineKnowledge:
    """Shared by all loops that send requests to one process.

    `label` is the match unit on its /metrics. `hit`: a prompt of the exporter hit the cache when it
    was sent a second time. `transfers`: usage counts as cached the KV that another engine computed.
    `no_system`: the chat template refuses a system message. `tried_beside`: a prompt that missed
    twice was sent in two overlapping requests.
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
        """The match unit by label and hits; None while it is unknown or not settled."""
        return match_unit(self.label, self._hits)

    @property
    def likely_unit(self) -> int | None:
        """The match unit, or the label until it is settled. For lengths, not for an ideal."""
        return self.match_unit or self.label

    @property
    def label_is_wrong(self) -> bool:
        """Whether hits show that the match unit differs from the label."""
        unit, label = self.match_unit, self.label
        if label is None or unit == label:
            return False
        return unit is not None or any(hit.cached % label for hit in self._hits)

    @property
    def hits(self) -> Collection[Hit]:
        """The hits of the latest turns, oldest first."""
        return tuple(self._hits)

    def add_hit(self, hit: Hit) -> None:
        """Remember a turn's hit. A turn without a hit says nothing about the unit."""
        if hit.cached > 0:
            self._hits.append(hit)

    def usage_of_new_prompt(self, usage: Usage | None) -> Usage | None:
        """The usage of a prompt that begins with a nonce, so no client sent it before."""
        if counts_all_as_cached(usage, self.label):
            self.transfers = True
        return self.hits_only(usage)

    def hits_only(self, usage: Usage | None) -> Usage | None:
        """The usage, with unknown cached tokens where they may be a transfer and not a hit."""
        return without_transfer(usage, self.label) if self.transfers else usage
