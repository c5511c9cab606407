"""The exporter's own share of an engine's counters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OwnShare:
    """The tokens and requests that the exporter itself sent to one engine, or a change of these.

    `queried_tokens` are prompt tokens that the engine looked up in its prefix cache, `hit_tokens`
    those that came from it or from an external tier, `external_tokens` the latter. `unsplit` counts
    requests that hit, of which the external part is not known. `settled` counts the `requests` with
    known cached tokens. `unknown` counts requests without usage that the engine may have looked up:
    their tokens are unknown. `written_tokens` are the new KV that all of them left in the cache, in
    whole blocks: a prompt whose cached tokens are not known counts in full, and a request without
    usage with an estimate.
    """

    requests: int = 0
    settled: int = 0
    unknown: int = 0
    prompt_tokens: int = 0
    queried_tokens: int = 0
    hit_tokens: int = 0
    external_tokens: int = 0
    unsplit: int = 0
    completion_tokens: int = 0
    written_tokens: int = 0
    in_flight: int = 0
    last_ended_at: float | None = None  # monotonic seconds

    @property
    def unsettled(self) -> int:
        """Requests with known prompt tokens and unknown cached tokens."""
        return self.requests - self.settled

    def plus(self, change: OwnShare) -> OwnShare:
        """With a later change added."""
        later = change.last_ended_at
        return OwnShare(
            self.requests + change.requests,
            self.settled + change.settled,
            self.unknown + change.unknown,
            self.prompt_tokens + change.prompt_tokens,
            self.queried_tokens + change.queried_tokens,
            self.hit_tokens + change.hit_tokens,
            self.external_tokens + change.external_tokens,
            self.unsplit + change.unsplit,
            self.completion_tokens + change.completion_tokens,
            self.written_tokens + change.written_tokens,
            self.in_flight + change.in_flight,
            self.last_ended_at if later is None else later,
        )

    def quiet(self, at: float, seconds: float = 1.0) -> bool:
        """Whether no request ran at `at` or ended within the `seconds` before.

        vLLM counts a step after it has sent the step's tokens, so counters that are read soon after
        a request can lack some of its tokens.
        """
        ended = self.last_ended_at
        return self.in_flight == 0 and (ended is None or at - ended >= seconds)
