"""What the answers of one engine process showed about its cache, kept from session to session.

A new process gets a new one: it may be another version with other flags.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

from exporter.analysis.reuse.kv_transfer import counts_all_as_cached, without_transfer
from exporter.analysis.reuse.learning import Hints, Observation, learn
from exporter.analysis.reuse.rule import sent_again

if TYPE_CHECKING:
    from exporter.analysis.reuse.learning import Learned
    from exporter.model.chat import Usage

_KEPT = 32
"""Hits that are kept: about the last four sessions."""
_CONFIRMED = 3
"""Hits below a known rule that make another rule, which explains all hits, the known one."""
_STORE_HITS = 3
"""Hits of a store that must agree on its chunk: their common divisor can be a multiple of it."""
_FRESH = 8
"""If no rule explains all hits, and none is known, the latest ones alone may show one."""
_LARGE_UNIT = 256
"""Tokens. Hybrid models labelled 16 have units of about 500 to 2,000; eight of these span one."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is kept of an engine process over a restart of the exporter.

    `process_start_time` is Unix time, as on its /metrics. `hits` are undisturbed. `hit` is that of
    `EngineKnowledge`: the hits do not show it, since some engines serve only what they computed
    twice.
    """

    process_start_time: float
    hits: tuple[Observation, ...]
    hit: bool = False


class EngineKnowledge:
    """Shared by all loops that send requests to one process.

    `hit`: a prompt of the exporter hit the cache when it was sent a second time. `transfers`: usage
    counts as cached the KV that another engine computed. `no_system`: the chat template refuses a
    system message. `tried_beside`: a prompt that missed twice was sent in two overlapping requests.
    `asked`: a prompt was sent again to tell two rules apart.
    """

    def __init__(self, hints: Hints = Hints()) -> None:  # noqa: B008 - frozen
        self.hit = False
        self.transfers = False
        self.no_system = False
        self.tried_beside = False
        self.asked = False
        self._seen: deque[Observation] = deque(maxlen=_KEPT)
        self._short: deque[Observation] = deque(maxlen=_FRESH)  # below the rule
        self._missed: deque[Observation] = deque(maxlen=_KEPT)
        self._disturbed: deque[Observation] = deque(maxlen=_KEPT)
        self._store_ends: set[int] = set()
        self._hints = hints
        self._learned = learn((), hints)

    @property
    def hints(self) -> Hints:
        """What /metrics tells of the process."""
        return self._hints

    @hints.setter
    def hints(self, hints: Hints) -> None:
        if hints != self._hints:
            self._hints = hints
            self._learned = self._by_all() or self._by_latest()

    @property
    def learned(self) -> Learned | None:
        """The reuse rule; None while it is unknown."""
        return self._learned

    @property
    def label(self) -> int | None:
        """The match unit on /metrics."""
        return self._hints.block

    @property
    def unit(self) -> int | None:
        """The match unit, or the label until it is settled. For lengths, not for an ideal."""
        return self._learned.rule.unit_tokens if self._learned else self.label

    @property
    def unit_to_span(self) -> int | None:
        """The unit that a prompt is made long enough for: `unit`, or more while that may be wrong.

        The label may be far below the unit where the layers differ, until hits show the unit.
        """
        unit = self.unit
        may_be_wrong = self._hints.uneven is True and self._learned is None
        return max(unit, _LARGE_UNIT) if unit is not None and may_be_wrong else unit

    @property
    def block(self) -> int | None:
        """The unit of the ideal: the label, unless hits that are no multiples of it disprove it."""
        label, known = self.label, self._learned
        if label is None or not self._hits_beside(label):
            return label
        return known.rule.unit_tokens if known else None

    @property
    def label_is_wrong(self) -> bool:
        """Whether hits show that the match unit differs from the label."""
        label = self.label
        if label is None:
            return False
        if self._learned is not None:
            return self._learned.told.unit_tokens not in (None, label)
        return self._hits_beside(label)

    def _hits_beside(self, unit: int) -> bool:
        """Whether a hit is no multiple of `unit`. What cuts a hit short cuts whole units off."""
        return any(one.cached % unit for one in (*self._seen, *self._short, *self._disturbed))

    @property
    def store_chunk(self) -> int | None:
        """The tokens that hits of an external store are multiples of; None until that is clear."""
        return gcd(*self._store_ends) if len(self._store_ends) >= _STORE_HITS else None

    def observe_store(self, cached: int) -> None:
        """Note a hit that an external store made longer: it ends with one of the store's chunks."""
        self._store_ends.add(cached)
        if len(self._store_ends) > _KEPT:
            self._store_ends = {gcd(*self._store_ends), cached}

    def remembered(self, process_start_time: float) -> Remembered:
        """What to keep of the process: the hits that the rule was learned from, oldest first."""
        return Remembered(process_start_time, tuple(self._seen), self.hit)

    def recall(self, known: Remembered) -> None:
        """Take what was kept of the same process."""
        self.hit = self.hit or known.hit
        for seen in known.hits:
            self.observe(seen)

    def repeat_hit(self, prompt: int) -> int | None:
        """The tokens that an identical prompt must hit; None while the rule is unknown."""
        return self._learned.span(sent_again(prompt)).least if self._learned else None

    def observe(self, seen: Observation) -> None:
        """Learn from what a prompt hit.

        A hit below a known rule is a loss, unless another rule explains this hit and all others.
        Such a rule holds until a hit disproves it, and for good after several short hits: then one
        loss is not taken for a rule. A hit above the rule disproves the rule. A miss alone shows no
        rule, but tells some apart. A hit on more than was sent before shows nothing: another
        client or another engine computed it.
        """
        if seen.cached > seen.prefix.known:
            return
        if seen.cached <= 0:
            if not seen.disturbed:
                self._missed.append(seen)
                self._learned = self._by_all() or self._learned
            return
        if seen.disturbed:
            self._disturbed.append(seen)
            self._learned = self._by_all() or self._without_losses(seen)
            return
        known = self._learned
        short = known is not None and seen.cached < known.span(seen.prefix).least
        (self._short if short else self._seen).append(seen)
        found = self._by_all()
        if found is not None and len(self._short) >= _CONFIRMED:
            self._seen.extend(self._short)
            self._short.clear()
        self._learned = found or (known if short else self._without_losses(seen))

    def _by_all(self) -> Learned | None:
        every = (*self._seen, *self._short, *self._missed, *self._disturbed)
        return learn(every, self._hints)

    def _without_losses(self, last: Observation) -> Learned | None:
        """The rule where no rule explains all hits: some hits below it are losses."""
        known = self._learned
        by_rule = [one for one in self._short if known is not None and one.fits(known.rule)]
        for short in (by_rule, []):
            found = learn((*self._seen, *short, *self._missed, *self._disturbed), self._hints)
            if found is not None:
                return found
        within = known is not None and last.cached <= known.span(last.prefix).most
        return known if within else self._by_latest()

    def _by_latest(self) -> Learned | None:
        return learn(tuple(self._seen)[-_FRESH:], self._hints)

    def usage_of_new_prompt(self, usage: Usage | None) -> Usage | None:
        """The usage of a prompt that begins with a nonce, so no client sent it before."""
        if counts_all_as_cached(usage, self.label):
            self.transfers = True
        return self.hits_only(usage)

    def hits_only(self, usage: Usage | None) -> Usage | None:
        """The usage, with unknown cached tokens where they may be a transfer and not a hit."""
        return without_transfer(usage, self.label) if self.transfers else usage
