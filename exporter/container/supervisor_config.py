"""Whom a supervisor looks after: plain values, made from a target's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.container.decide.policy import Policy
    from exporter.container.decide.records import Launch


@dataclass(frozen=True, slots=True)
class SupervisorConfig:
    """Whom the supervisor looks after, and how.

    `launch` is None for a container that somebody else makes; `model` is what vLLM is told to load,
    None where the command is not vLLM's own; `old_image`: its tag is of a time when vLLM's image
    took the model in another way; `reference` is its name, or `label` ("key" or "key=value") is
    what it carries. Seconds are those between two looks, those that
    /health may take, and those from SIGTERM to SIGKILL. `held` says whether an operator wants it
    left alone.
    """

    target: str
    mode: str
    policy: Policy
    launch: Launch | None = None
    secrets: Mapping[str, str] | None = None
    model: str | None = None
    old_image: bool = False
    reference: str | None = None
    label: str | None = None
    look_seconds: float = 5.0
    health_seconds: float = 5.0
    stop_grace_seconds: float = 30.0
    stop_at_shutdown: bool = False
    remove_at_shutdown: bool = False
    held: Callable[[], bool] = lambda: False

    def __repr__(self) -> str:
        return f"Ward({self.target!r}, {self.mode!r})"  # the rest may hold secrets
