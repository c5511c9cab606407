"""What tests in several folders share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import structlog
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


@pytest.fixture(scope="session")
def missing():
    """Leave a test out, with the reason; on CI everything must be there."""

    def leave_out(what: str) -> NoReturn:
        if os.environ.get("CI") == "true":
            pytest.fail(what)
        pytest.skip(what)

    return leave_out


@pytest.fixture(scope="session")
def promtool(missing) -> str:
    found = os.environ.get("PROMTOOL") or shutil.which("promtool")
    return found or missing("no promtool: install Prometheus, or name it in PROMTOOL")


@pytest.fixture(autouse=True)
def log_as_at_the_start() -> Iterator[None]:
    """A command that a test runs in this process sets up its log, which is no other test's."""
    yield
    structlog.reset_defaults()


_CONTAINER = Path(__file__).parent / "container"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together what shares a thing that is slow to start, where tests run side by side.

    These groups wait most of the time: for a model that loads, a container that comes up. Each is
    a worker's own, and the other tests run beside them.
    """
    for item in items:
        group = _group(item)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item) -> str | None:
    if item.path.name == "test_real_kinds.py":
        return "engine kinds"
    if item.get_closest_marker("vllm"):
        return "vllm"  # the servers of the fixture vllm_servers
    if item.get_closest_marker("vllm_image"):
        return "stack"
    if item.get_closest_marker("docker"):
        return "container" if item.path.is_relative_to(_CONTAINER) else "stack"
    return None
