"""What the loops that probe one target share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.engine.wire.request import Deadlines
    from exporter.probe.admission import Admission
    from exporter.probe.engine_requests import EngineRequests
    from exporter.probe.sink import ProbeSink


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """One target, the way to it, and the sink of what its probe finds out.

    All loops pass the same admission, and send through the same requests, which hold the target's
    client, readings and clock. `new_salt` gives a cache salt that no request had before.
    """

    target: str
    requests: EngineRequests
    admission: Admission
    deadlines: Deadlines
    new_salt: Callable[[], str]
    sink: ProbeSink
