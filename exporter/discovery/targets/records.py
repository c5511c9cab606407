"""The result of one query to a source."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.config import Target


class DiscoveryFailure(StrEnum):
    """Why a query failed. Label `reason` of `vllm_exporter_discovery_failures_total`."""

    TIMEOUT = "timeout"
    TEMPORARY = "temporary"  # no DNS server answered, or the answer was SERVFAIL
    FAILED = "failed"  # any other error of the resolver; Kubernetes: no service account, no file
    UNREACHABLE = "unreachable"  # Docker or the API of Kubernetes: nothing accepts connections
    PERMISSION_DENIED = "permission_denied"  # the socket's mode, or an answer 401 or 403
    API_ERROR = "api_error"  # Docker or the API of Kubernetes answered with another error
    REFUSED = "refused"  # the source answered, but its targets cannot run


class LeftOut(StrEnum):
    """Why a found target is not measured. Label `reason` of
    `vllm_exporter_discovery_left_out_targets`.
    """

    LIMIT = "limit"
    MISTAKE = "mistake"


class DiscoveryError(Exception):
    """A query failed, so it is unknown which targets exist now."""

    def __init__(self, reason: DiscoveryFailure, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class DiscoveryResult:
    """The answer of a source.

    `targets` have distinct names. `unreachable` names targets that exist but have no known address
    now. `mistakes` maps the name of each other thing found to the reason why it is no target.
    """

    targets: tuple[Target, ...] = ()
    unreachable: frozenset[str] = frozenset()
    mistakes: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Finds targets in one place."""

    async def query(self) -> DiscoveryResult:
        """Raises `DiscoveryError`."""

    async def close(self) -> None:
        """Free what the source holds; no query follows."""
