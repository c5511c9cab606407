"""What tests in several folders share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from vllm_server import VllmServers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def vllm_servers() -> Iterator[VllmServers]:
    """Real vLLM servers, by flag set; all of them end with the run."""
    servers = VllmServers()
    yield servers
    servers.stop_all()
