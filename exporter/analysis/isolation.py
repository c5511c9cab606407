"""What the isolation test showed: one prompt under two salts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.analysis.reuse.repeated_prompt import (
    Repeat,
    RepeatConditions,
    RepeatOutcome,
    judge_repeat,
)

if TYPE_CHECKING:
    from exporter.analysis.hits.traffic import Traffic
    from exporter.model.failure import Failure


@dataclass(frozen=True, slots=True)
class IsolationTest:
    """What the requests of one isolation test showed, in tokens; None is unknown.

    A third request under the same salt is sent only if the second hit nothing, and two overlapping
    ones only if the third hit nothing either (`overlap_cached`). `possible` is what the repeat must
    hit by the engine's reuse rule. `traffic` and `room` are those between the first and the last of
    these; `same_ids`: they are known to have had the same token ids. `hit_before`: this engine
    process had served a prompt of the exporter from cache before. `other_salt_external` are the
    tokens under the other salt that came from a KV store, and `same_salt_local` those of the repeat
    that came from the engine's own cache. `transfer`: usage counts as cached what came from another
    engine. `salt_refused`: the engine refuses cache_salt, so no request had one. `mixed`: several
    engines are known to have answered. `tokens` are those of all prompts and answers.
    """

    prompt_tokens: int | None = None
    first_cached: int | None = None
    same_salt_cached: int | None = None
    third_cached: int | None = None
    overlap_cached: int | None = None
    other_salt_cached: int | None = None
    other_salt_external: int | None = None
    same_salt_local: int | None = None
    match_unit: int | None = None
    possible: int | None = None
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
    def comparable(self) -> bool:
        """Whether all requests were answered, and cached tokens mean hits."""
        return self.too_long is None and self.failure is None and not self.transfer

    @property
    def leaked(self) -> int | None:
        """Tokens from cache under a salt that no request had before; None where unknown."""
        if self.salt_refused:
            return None
        known = [one for one in (self.first_cached, self.other_salt_cached) if one is not None]
        return max(known) if len(known) == 2 or any(known) else None  # noqa: PLR2004 - both

    @property
    def outcome(self) -> tuple[RepeatOutcome, str] | None:
        """What the second request showed, and why; None if cached tokens are unknown."""
        if self.same_salt_cached is None or self.prompt_tokens is None:
            return None
        by = RepeatConditions(
            prompt=self.prompt_tokens,
            match_unit=self.match_unit,
            repeat_hit=self.possible,
            room=self.room,
            ranks=self.ranks,
            hit_before=self.hit_before,
            prefix_caching=self.prefix_caching,
            several=self.mixed,
        )
        return judge_repeat(Repeat(self.same_salt_cached, self.traffic, self.same_ids), by)
