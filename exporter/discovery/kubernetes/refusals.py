"""What the API refused, and errors of the connection, as failures of discovery."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from exporter.config import EVERY_NAMESPACE
from exporter.discovery.targets.records import DiscoveryError, DiscoveryFailure
from exporter.engine.wire.refusal import error_text

if TYPE_CHECKING:
    from exporter.discovery.kubernetes.access import ApiAccess


class ExpiredError(Exception):
    """The API no longer has that resource version: the pods must be listed again."""


def refusal_of(
    status: int, message: str, namespace: str, access: ApiAccess
) -> DiscoveryError | ExpiredError:
    """The error for an answer that is not 200."""
    if status == HTTPStatus.GONE:
        return ExpiredError(message)
    if access.token:
        message = message.replace(access.token, "***")
    said = error_text(f"HTTP {status}: {message}")
    if status == HTTPStatus.UNAUTHORIZED:
        return DiscoveryError(DiscoveryFailure.PERMISSION_DENIED, f"{said}: {access.token_origin}")
    if status == HTTPStatus.FORBIDDEN:
        detail = f"{said}: grant get, list and watch on pods {_where(namespace)}"
        return DiscoveryError(DiscoveryFailure.PERMISSION_DENIED, detail)
    return DiscoveryError(DiscoveryFailure.API_ERROR, said)


def unreadable(why: str) -> DiscoveryError:
    """The error for an answer that makes no sense."""
    text = error_text(f"the answer of the API cannot be used: {why}")
    return DiscoveryError(DiscoveryFailure.API_ERROR, text)


def connection_error(error: BaseException, url: str) -> DiscoveryError:
    """The error for one of aiohttp or of the operating system."""
    if isinstance(error, TimeoutError):
        return DiscoveryError(DiscoveryFailure.TIMEOUT, f"{url}: no answer in time")
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, ConnectionRefusedError
    ):
        return DiscoveryError(DiscoveryFailure.UNREACHABLE, f"nothing listens at {url}")
    text = error_text(f"{url}: {str(error) or type(error).__name__}")
    return DiscoveryError(DiscoveryFailure.UNREACHABLE, text)


def _where(namespace: str) -> str:
    if namespace == EVERY_NAMESPACE:
        return "in every namespace, by a ClusterRole and a ClusterRoleBinding"
    return f"in the namespace {namespace}, by a Role and a RoleBinding"
