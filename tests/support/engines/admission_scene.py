"""An admission whose engine and clock the test sets."""

from __future__ import annotations

from dataclasses import replace

from fake_clock import FakeClock
from load_views import engine, load_policy, new_admission
from recorded_sinks import RecordedProbe

from exporter.analysis.load import Work


class Scene:
    """Counts how often the engine is looked at and asked, and keeps what is published."""

    def __init__(self, tokens_per_hour=10_000) -> None:
        self.clock = FakeClock(monotonic=0.0)
        self.view = engine()
        self.sink = RecordedProbe()
        self.looks = 0
        self.works = False  # whether the engine generates tokens between readings
        self.rest = None
        self.rest_asked = 0
        self.admission = new_admission(
            self._observe,
            self.clock,
            load_policy(tokens_per_hour, usage=0.9),
            sink=self.sink,
            rest=self._rest,
        )

    @property
    def published(self):
        """The reasons."""
        return [reason for reason, _ in self.sink.pauses]

    async def _rest(self):
        self.rest_asked += 1
        return self.rest

    async def _observe(self):
        self.looks += 1
        if self.works:
            self.view = engine_at_work(self.view, self.looks)
        return self.view

    async def pass_through(self, tokens=0, error=None, failure=None):
        async with self.admission.admitted(Work.SESSION) as charge:
            charge.tokens, charge.failure = tokens, failure
            if error is not None:
                raise error


def engine_at_work(view, generated):
    return replace(view, snapshot=replace(view.snapshot, generation_tokens=float(generated)))
