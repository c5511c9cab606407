"""What the tests of the scrape loop share."""

from __future__ import annotations

import pytest
import structlog
from scraper_bench import Bench, FakeEngine


@pytest.fixture
async def engine():
    fake = FakeEngine()
    async with fake.server:
        yield fake


@pytest.fixture
async def bench(engine: FakeEngine):
    made = Bench(engine.url)
    async with made.source:
        yield made


@pytest.fixture
def logs():
    with structlog.testing.capture_logs() as captured:
        yield captured
