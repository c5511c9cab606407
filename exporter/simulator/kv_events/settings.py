"""The value of `--kv-events-config`, as far as the simulator has it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from exporter.errors import ConfigError


@dataclass(frozen=True, slots=True)
class KvEventsConfig:
    """Where KV events are published. A rank adds its number to the port."""

    endpoint: str = "tcp://*:5557"
    topic: str = ""


def parse_kv_events_config(text: str) -> KvEventsConfig | None:
    """Of vLLM's JSON; None if it turns events off. Raises `ConfigError`."""
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise ConfigError(
            f"--kv-events-config {text}: must be JSON such as "
            '{"enable_kv_cache_events": true, "endpoint": "tcp://*:5557"}'
        )
    if not given.get("enable_kv_cache_events") or given.get("publisher", "zmq") != "zmq":
        return None
    known = {key: str(given[key]) for key in ("endpoint", "topic") if key in given}
    return KvEventsConfig(**known)
