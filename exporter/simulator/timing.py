"""How long one engine step takes."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.simulator.engine_kinds.settings import SimulatorSettings


class StepTimer:
    """Seconds per step, with a jitter that the seed fixes.

    A step computes prompt tokens of the requests in prefill, and one token of each request that
    decodes. The decode cost counts once per step, because a GPU decodes a batch in about the time
    of one request.
    """

    def __init__(self, settings: SimulatorSettings, rank: int) -> None:
        self._settings = settings
        self._random = Random(f"{settings.seed}/{rank}")
        self.slowdown = 1.0

    def step_seconds(self, *, admitted: int, prefill_tokens: int, decoding: int) -> float:
        """The duration of a step that admitted `admitted` new requests."""
        given = self._settings
        seconds = given.prefill_seconds_per_token * prefill_tokens
        if admitted:
            seconds += given.prefill_floor_seconds
        if decoding:
            seconds += given.decode_seconds_per_token
        jitter = 1 + given.jitter_ratio * self._random.uniform(-1, 1)
        return seconds * jitter * self.slowdown * given.time_scale
