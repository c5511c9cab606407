"""The exporter's own share of an engine's counters. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OwnShare:
    """What the exporter itself asked of one engine, or how that changed. Tokens, and requests.

    `queried_tokens` are those of prompts that the engine looked up in its prefix cache, and
    `hit_tokens` those known to be served from it, by the `told` of the `requests`. A request
    without usage that the engine may have looked up is `unknown`: none of its tokens are known.
    """

    requests: int = 0
    told: int = 0
    unknown: int = 0
    prompt_tokens: int = 0
    queried_tokens: int = 0
    hit_tokens: int = 0
    completion_tokens: int = 0
    in_flight: int = 0
    last_ended_at: float | None = None  # monotonic seconds

    @property
    def untold(self) -> int:
        """Requests whose prompt tokens are known and whose cached tokens are not."""
        return self.requests - self.told

    def plus(self, change: OwnShare) -> OwnShare:
        """With a change that came later."""
        later = change.last_ended_at
        return OwnShare(
            self.requests + change.requests,
            self.told + change.told,
            self.unknown + change.unknown,
            self.prompt_tokens + change.prompt_tokens,
            self.queried_tokens + change.queried_tokens,
            self.hit_tokens + change.hit_tokens,
            self.completion_tokens + change.completion_tokens,
            self.in_flight + change.in_flight,
            self.last_ended_at if later is None else later,
        )

    def quiet(self, at: float, seconds: float = 1.0) -> bool:
        """Whether none of the requests ran at `at` or ended within `seconds` before.

        vLLM counts a step after it has sent the step's tokens, so counters that are read soon after
        a request may lack some of it.
        """
        ended = self.last_ended_at
        return self.in_flight == 0 and (ended is None or at - ended >= seconds)
