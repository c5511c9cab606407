"""What a look at a source comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.config import Target


class DiscoveryFailure(StrEnum):
    """Why a source did not answer. Label `reason` of `vllm_exporter_discovery_failures_total`."""

    TIMEOUT = "timeout"
    TEMPORARY = "temporary"  # no DNS server answers, or they say SERVFAIL
    FAILED = "failed"  # any other word of the system's resolver
    UNREACHABLE = "unreachable"  # Docker: no socket, refused, daemon gone
    PERMISSION_DENIED = "permission_denied"  # Docker: the socket's mode, or a proxy's 403
    API_ERROR = "api_error"  # Docker answered something else
    REFUSED = "refused"  # it answered, and what it found cannot be run


class LeftOut(StrEnum):
    """Why something was found and is not measured. Label `reason` of
    `vllm_exporter_discovery_left_out_targets`.
    """

    LIMIT = "limit"
    MISTAKE = "mistake"


class DiscoveryError(Exception):
    """A source did not answer: what it knew of before is neither there nor gone."""

    def __init__(self, reason: DiscoveryFailure, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class DiscoveryResult:
    """What a source answered.

    `targets` have names that differ. `still` names targets that are there, but of which it is not
    known just now where they are. `mistakes` says of what else was found, by its name, why it is no
    target.
    """

    targets: tuple[Target, ...] = ()
    still: frozenset[str] = frozenset()
    mistakes: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """A place where targets are found."""

    async def look(self) -> DiscoveryResult:
        """Ask once. Raises `LookError`."""

    async def close(self) -> None:
        """Nothing is asked any more."""
