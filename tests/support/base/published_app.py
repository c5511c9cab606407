"""Fixtures: a real server, and the records that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fake_clock import FakeClock
from publish_records import STARTED
from samples_page import publish

from exporter.metrics.history import History
from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.web.server import create_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from exporter.model.session import SessionResult

Client = TestClient[web.Request, web.Application]


class Published:
    """The metrics and the history behind the server, and its application."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.history = History()
        self.app = create_app(
            metrics=self.metrics,
            history=self.history,
            clock=FakeClock(unix=STARTED + 60),
        )

    def session_finished(self, result: SessionResult) -> None:
        if result.target not in self.metrics.targets:
            self.metrics.add(TargetState(result.target))
        publish(self.metrics, result)
        self.history.add(result)


@pytest.fixture
def metrics() -> Metrics:
    """With the target `local`."""
    metrics = Metrics()
    metrics.add(TargetState("local"))
    return metrics


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
async def client(published: Published) -> AsyncIterator[Client]:
    async with TestClient(TestServer(published.app)) as client:
        yield client
