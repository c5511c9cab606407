"""What the isolation test showed: one prompt under two salts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.analysis.cache.repeat import Circumstances, Outcome, Repeat, judged, most_cached

if TYPE_CHECKING:
    from exporter.analysis.cache.traffic import Traffic
    from exporter.model.failure import Failure


@dataclass(frozen=True, slots=True)
class SaltTest:
    """What the requests showed, in tokens; None is unknown.

    The third request under the same salt is sent only where the second hit nothing, and two more at
    the same time where the third hit nothing (`beside_cached`). `traffic` and
    `room` are those between the first and the last of these, `same_ids` whether they are known to
    have had the same token ids, `hit_before` whether this engine process had served a prompt of the
    exporter from cache before. `transfer`: usage counts as cached what came from another engine.
    `salt_refused`: the engine refuses cache_salt, so all were sent without.
    `mixed`: they are known to have met several engines. `tokens` is what all of them took, prompts
    and answers.
    """

    prompt_tokens: int | None = None
    first_cached: int | None = None
    same_salt_cached: int | None = None
    third_cached: int | None = None
    beside_cached: int | None = None
    other_salt_cached: int | None = None
    match_unit: int | None = None
    ranks: int | None = None
    prefix_caching: bool | None = None
    tokens: int = 0
    traffic: Traffic | None = None
    room: float | None = None
    same_ids: bool | None = None
    hit_before: bool = False
    transfer: bool = False
    salt_refused: bool = False
    mixed: bool = False
    failure: Failure | None = None
    too_long: str | None = None

    @property
    def leaked(self) -> int | None:
        """Tokens that a request under a salt of its own was served; None where unknown."""
        if self.salt_refused:
            return None
        known = [one for one in (self.first_cached, self.other_salt_cached) if one is not None]
        return max(known) if len(known) == 2 or any(known) else None  # noqa: PLR2004 - both

    @property
    def possible(self) -> int | None:
        """The most that the repeat can hit: whole units, and never the prompt's last token."""
        if self.prompt_tokens is None or not self.match_unit:
            return None
        return most_cached(self.prompt_tokens, self.match_unit)

    @property
    def outcome(self) -> tuple[Outcome, str] | None:
        """What the prompt, sent again, showed, and why; None where the server does not tell."""
        if self.same_salt_cached is None or self.prompt_tokens is None:
            return None
        by = Circumstances(
            prompt=self.prompt_tokens,
            match_unit=self.match_unit,
            room=self.room,
            ranks=self.ranks,
            hit_before=self.hit_before,
            prefix_caching=self.prefix_caching,
            several=self.mixed,
        )
        return judged(Repeat(self.same_salt_cached, self.traffic, self.same_ids), by)
