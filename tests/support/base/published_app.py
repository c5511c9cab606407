"""A real server over a fresh registry, for every test of this folder that asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fake_clock import FakeClock
from prometheus_client import CollectorRegistry
from publish_records import STARTED

from exporter.metrics.history import History
from exporter.metrics.sink import Metrics, new_registry
from exporter.web.server import create_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from exporter.model.session import SessionResult

Client = TestClient[web.Request, web.Application]


class Published:
    """The parts behind the server, and the sink that the application makes of them."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self.metrics = Metrics(self.registry)
        self.history = History()
        self.app = create_app(
            registry=self.registry,
            metrics=self.metrics,
            history=self.history,
            clock=FakeClock(unix=STARTED + 60),
        )

    def session_finished(self, result: SessionResult) -> None:
        self.metrics.target_added(result.target)
        self.metrics.session_finished(result)
        self.history.add(result)


@pytest.fixture
def registry() -> CollectorRegistry:
    """One without the families of the process."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    """The sink, with the target `local`."""
    metrics = Metrics(registry)
    metrics.target_added("local")
    return metrics


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
async def client(published: Published) -> AsyncIterator[Client]:
    async with TestClient(TestServer(published.app)) as client:
        yield client
