"""All metric families, by the state that they read. /metrics shows them in this order.

A value that is not known is not on the page, and neither is a family without any value.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import ProcessCollector

from exporter.metrics.families.container import CONTAINER
from exporter.metrics.families.cost import COST
from exporter.metrics.families.discovery import DISCOVERY
from exporter.metrics.families.engine import ENGINE
from exporter.metrics.families.exporter import EXPORTER, LOOPS
from exporter.metrics.families.kv_cache import KV_CACHE
from exporter.metrics.families.on_demand import ON_DEMAND
from exporter.metrics.families.sessions import SESSIONS
from exporter.metrics.families.users import USERS

TARGET_FAMILIES: Final = (*SESSIONS, *COST, *ENGINE, *KV_CACHE, *USERS, *CONTAINER)
"""Of each target, with the label `target`; they read a `TargetState`."""

ON_DEMAND_FAMILIES: Final = ON_DEMAND
"""Only on /probe, with the label `target`; they read a `TargetState`."""

EXPORTER_FAMILIES: Final = (*EXPORTER, *DISCOVERY)
"""Of the exporter; they read the `ExporterState`."""

LOOP_FAMILIES: Final = LOOPS
"""Of the loops of a target or of the exporter; they read its `Loops`."""

PROCESS: Final = ProcessCollector(registry=None)
"""The families `process_*` of prometheus_client: memory, processor time, open files."""
