"""Where the API of Kubernetes is, and what opens it: settings, or the service account of a pod.

A pod's environment has the address, and a volume has token, certificates and namespace
(Kubernetes' "Accessing the API from within a Pod"). The kubelet replaces the files as they expire,
so each request reads them again.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.discovery.targets.addresses import url_of
from exporter.discovery.targets.records import DiscoveryError, DiscoveryFailure

if TYPE_CHECKING:
    from exporter.config import KubernetesDiscovery

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_NOT_IN_A_POD = "no service account of a pod, so the exporter cannot use the cluster's API"
_MOUNT = "mount it (automountServiceAccountToken: true)"


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """`token` is None where none is sent; `certificates` (PEM) is None for those of the system."""

    url: str
    token: str | None
    certificates: str | None
    token_origin: str

    def context(self) -> ssl.SSLContext:
        """The TLS context that trusts the certificates. Raises `DiscoveryError`."""
        try:
            context = ssl.create_default_context(cadata=self.certificates)
        except ssl.SSLError as error:
            detail = f"the certificates of the API cannot be used: {error.reason or error}"
            raise DiscoveryError(DiscoveryFailure.FAILED, detail) from error
        # Python 3.13 refuses authorities without a key identifier, which older clusters have.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def access_of(settings: KubernetesDiscovery) -> ApiAccess:
    """How to use the API now. Raises `DiscoveryError`."""
    in_pod = settings.api_url is None
    token_file = settings.api_token_file or (SERVICE_ACCOUNT / "token" if in_pod else None)
    ca_file = settings.api_ca_file or (SERVICE_ACCOUNT / "ca.crt" if in_pod else None)
    return ApiAccess(
        url=settings.api_url or _address_in_pod(),
        token=None if token_file is None else _read(token_file),
        certificates=None if ca_file is None else _read(ca_file),
        token_origin="no token was sent; set api_token_file"
        if token_file is None
        else f"it does not accept the token of {token_file}",
    )


def namespaces_of(settings: KubernetesDiscovery) -> tuple[str, ...]:
    """The namespaces to watch. Raises `DiscoveryError`."""
    return settings.namespaces or (_read(SERVICE_ACCOUNT / "namespace"),)


def _address_in_pod() -> str:
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not port.isdecimal():
        detail = f"{_NOT_IN_A_POD}: KUBERNETES_SERVICE_HOST is not set; elsewhere set api_url"
        raise DiscoveryError(DiscoveryFailure.FAILED, detail)
    return url_of("https", host, int(port), "")


def _read(path: Path) -> str:
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is no text"
        own = path.parent == SERVICE_ACCOUNT
        detail = f"{_NOT_IN_A_POD}; {_MOUNT}: {path}: {words}" if own else f"{path}: {words}"
        raise DiscoveryError(DiscoveryFailure.FAILED, detail) from error
    if not text:
        raise DiscoveryError(DiscoveryFailure.FAILED, f"{path} is empty")
    return text
