"""A fleet with real loops and simulated engines, and its published metrics."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from fleet_bench import Bench, fleet_of, simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from exporter.simulator.server import Simulator


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with fleet_of() as made:
        yield made


@pytest.fixture
async def engines() -> AsyncIterator[list[Simulator]]:
    """Three engines."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(simulator()) for _ in range(3)]
