"""Whether a Docker Engine answers, for tests that are left out where none does."""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING, TypeVar

import docker.errors

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def reach(connect: Callable[[], T]) -> T | str:
    """What `connect` makes, a client of docker-py; or in words why no engine answers."""
    with warnings.catch_warnings():
        # docker-py does not close a socket without an answer. It is collected here, and not
        # in the middle of some test, which would fail of it.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return connect()
        except docker.errors.DockerException as error:
            reason = str(error)
        gc.collect()
    return reason
