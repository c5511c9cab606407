"""The families of /probe: what one session on demand shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.metrics.families.cost import COST
from exporter.metrics.families.sessions import SESSIONS
from exporter.metrics.readers import Reader, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.metrics.readers import Family, Reading
    from exporter.metrics.state.target import TargetState

_SAME = frozenset(
    {
        "vllm_probe_up",
        "vllm_probe_scenario_up",
        "vllm_probe_session_duration_seconds",
        "vllm_probe_notice",
        "vllm_probe_prefix_stable",
        "vllm_probe_cache_wedged",
    }
)
"""With those of each turn: all that a single session can show."""


def _outcome(target: TargetState) -> Iterator[Reading]:
    answer = target.on_demand
    if answer is not None:
        yield (answer.outcome, answer.reason), 1


ON_DEMAND: Final[tuple[Family[TargetState], ...]] = (
    gauge(
        "vllm_probe_on_demand",
        Reader(("outcome", "reason"), _outcome),
        "1 for what came of a session on demand: finished, failed, timeout (it took longer than "
        "the scrape may), refused (a limit of the probe or the engine's load forbids it now; "
        "vllm_probe_up is absent). The reason is empty when it finished. Only on /probe.",
    ),
)

ON_DEMAND_PAGE: Final = (
    *ON_DEMAND,
    *(
        family
        for family in (*SESSIONS, *COST)
        if family.name in _SAME or family.name.startswith("vllm_probe_turn_")
    ),
)
"""All families of /probe, for a state that knows nothing but that session."""
