"""Servers of every kind, and what is said of them: found out once for all tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from commands import LoopThread
from served import Said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def loop() -> Iterator[LoopThread]:
    running = LoopThread()
    yield running
    running.close()


@pytest.fixture(scope="session")
def said(loop: LoopThread) -> Callable[[str], Said]:
    """What `check` and `probe` say of a kind of server."""
    known: dict[str, Said] = {}
    return lambda name: known.setdefault(name, Said(loop, name))
