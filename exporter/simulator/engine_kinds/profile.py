"""One kind of server that `simulate --like` imitates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.simulator.faults.fault_fields import Fault


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of server: real examples, what the exporter reports, and its behaviours."""

    name: str
    server: str
    said: str
    behaviours: tuple[Fault, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
