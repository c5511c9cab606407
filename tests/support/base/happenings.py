"""Hypothesis strategies of what the loops publish: sessions and scrapes, in any order."""

from __future__ import annotations

from hypothesis import strategies as st
from publish_records import engine_view, failed_engine_view, failed_session, session, turn

from exporter.model.engine import EngineTotals, EngineView
from exporter.model.failure import FailureReason
from exporter.model.reuse import RuleCause
from exporter.model.session import LossCause

LIMIT = 5
TARGETS = ("one", "two")
targets = st.sampled_from(TARGETS)
tokens = st.one_of(st.none(), st.integers(0, 5000))
seconds = st.floats(0, 500)


@st.composite
def turns(draw, index):
    prompt = draw(tokens)
    cached = None if prompt is None else draw(st.one_of(st.none(), st.integers(0, prompt)))
    ideal = None if prompt is None else draw(st.one_of(st.none(), st.integers(cached or 0, prompt)))
    return turn(
        index,
        prompt,
        cached,
        ideal,
        completion=None if prompt is None else draw(tokens),
        ttft=draw(st.one_of(st.none(), seconds)),
        latency=draw(seconds),
        gaps=tuple(draw(st.lists(seconds, max_size=2))),
        cause=draw(st.sampled_from(LossCause)),
        gives_up=draw(st.none() | st.integers(0, (ideal or 0) - (cached or 0))) if ideal else 0,
        rule=draw(st.sampled_from(RuleCause)),
    )


@st.composite
def sessions(draw):
    played = [draw(turns(index)) for index in range(1, draw(st.integers(1, LIMIT + 2)) + 1)]
    if draw(st.booleans()):
        return session(*played, target=draw(targets))
    return failed_session(
        *played[:-1], target=draw(targets), reason=draw(st.sampled_from(FailureReason))
    )


steps = st.one_of(
    sessions(),
    # How much each of the engine's totals grows; None: this engine has no such counter yet.
    st.tuples(targets, st.lists(tokens, min_size=6, max_size=6)),
    st.tuples(targets, st.none()),  # a failed scrape
)


class Engines:
    """Views with totals that never go back, as the scraper makes them."""

    def __init__(self) -> None:
        self._totals: dict[str, list[float | None]] = {target: [None] * 6 for target in TARGETS}

    def view(self, target: str, growth: list[int | None] | None) -> EngineView:
        if growth is None:
            return failed_engine_view(target=target)
        self._totals[target] = [
            total if more is None else (total or 0.0) + more
            for total, more in zip(self._totals[target], growth, strict=True)
        ]
        return engine_view(target=target, totals=EngineTotals(*self._totals[target]))
