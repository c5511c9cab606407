"""Which data-parallel rank a session runs on, and how many ranks can have answered it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.analysis.hits.counted_hits import growth
from exporter.model.engine import release

if TYPE_CHECKING:
    from exporter.model.engine import EngineSnapshot, Rank

FIRST_TO_PIN = (14, 0)
"""vLLM 0.14: earlier releases do not obey the header that selects a rank."""


@dataclass(slots=True)
class RankRotation:
    """Gives each session the next rank of one engine, if sessions are `pinned`. The first session
    gets rank number `first`, counted over and over.

    `gone` has the labels of ranks that the engine refused although its page shows them: a rank that
    was scaled down stays on the page. `obeyed` is False once the counters of a rank have shown that
    another one ran its requests, as behind a proxy that drops the header.
    """

    pinned: bool = False
    first: int = 0
    gone: set[int] = field(default_factory=set)
    obeyed: bool = True
    _shown: tuple[Rank, ...] = ()
    _given: int = 0

    def next(self, snapshot: EngineSnapshot | None, version: str | None) -> Rank | None:
        """The rank of a new session; None if vLLM must choose, or has only one."""
        if snapshot is not None and snapshot.rank_list != self._shown:
            self.forget()
            self._shown = snapshot.rank_list
        left = [rank for rank in self._shown if rank.label not in self.gone]
        known = release(version)
        old = known is not None and known < FIRST_TO_PIN
        if not self.pinned or old or len(self._shown) < 2 or not left:  # noqa: PLR2004 - a choice
            return None
        self._given += 1
        return left[(self.first + self._given - 1) % len(left)]

    def forget(self) -> None:
        """Drop what is known of the engine process, because it has ended."""
        self.gone, self.obeyed = set(), True

    def answering(self, rank: Rank | None, snapshot: EngineSnapshot | None) -> int | None:
        """How many ranks can have run the requests that were sent to `rank`; None is unknown."""
        if snapshot is None:
            return None
        return 1 if rank is not None and self.obeyed else snapshot.ranks

    def compare(
        self, rank: Rank | None, before: EngineSnapshot | None, after: EngineSnapshot, sent: int
    ) -> None:
        """Compare the growth of the rank's counter with the prompt tokens `sent` to it."""
        if rank is None or before is None:
            return
        computed = growth(
            before.prompt_tokens_by_rank.get(rank.label),
            after.prompt_tokens_by_rank.get(rank.label),
        )
        if computed is not None and computed < sent:
            self.obeyed = False
