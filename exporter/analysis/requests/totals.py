"""What the requests of a recording add up to, and the changes that cost the most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model.explained import Change, ExplainedRequest


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over requests, in tokens. The three parts add up to the prompt tokens."""

    requests: int
    conversations: int
    prompt_tokens: int
    reusable_tokens: int
    changed_tokens: int

    @property
    def new_tokens(self) -> int:
        return self.prompt_tokens - self.reusable_tokens - self.changed_tokens

    @property
    def reusable_ratio(self) -> float | None:
        """What can be reused, of what could be if the client had changed nothing.

        None if no request repeats anything.
        """
        repeated = self.reusable_tokens + self.changed_tokens
        return self.reusable_tokens / repeated if repeated else None


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of change in one section, and what it costs. `share` is of what could be reused.

    `first` is the first request with it, `change` the change of that request.
    """

    change: Change
    first: ExplainedRequest
    requests: int
    changed_tokens: int
    share: float


def totals_of(requests: Sequence[ExplainedRequest]) -> Totals:
    return Totals(
        requests=len(requests),
        conversations=len({one.conversation for one in requests}),
        prompt_tokens=sum(one.prompt_tokens for one in requests),
        reusable_tokens=sum(one.reusable_tokens for one in requests),
        changed_tokens=sum(one.changed_tokens for one in requests),
    )


def findings_of(requests: Sequence[ExplainedRequest]) -> list[Finding]:
    """The changes by reason and section, the most expensive first.

    The tokens of a request count for its first change: while that stands, others cost nothing.
    """
    groups: dict[tuple[str, str], list[tuple[Change, ExplainedRequest]]] = {}
    for one in requests:
        if (change := one.change) is not None:
            groups.setdefault((change.reason, change.place.section), []).append((change, one))
    totals = totals_of(requests)
    repeated = totals.reusable_tokens + totals.changed_tokens
    found = [
        Finding(
            *group[0],
            requests=len(group),
            changed_tokens=(lost := sum(one.changed_tokens for _, one in group)),
            share=lost / repeated,
        )
        for group in groups.values()
    ]
    return sorted(found, key=lambda one: -one.changed_tokens)
