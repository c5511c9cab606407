"""What tests in several folders share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from vllm_server import VllmServers

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes says something of the machine, not of the code. On CI the examples are
# the same in each run: a new one is to be found at a desk, not in the way of a change.
settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def vllm_servers() -> Iterator[VllmServers]:
    """Real vLLM servers, by flag set; all of them end with the run."""
    servers = VllmServers()
    yield servers
    servers.stop_all()
