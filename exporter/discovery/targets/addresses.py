"""From the addresses of a DNS name to targets. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from exporter.config import Target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.config import DnsDiscovery

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def targets_at(addresses: Iterable[str], settings: DnsDiscovery) -> tuple[Target, ...]:
    """One target per address of the wanted families, sorted: DNS servers change the order.

    A link-local IPv6 address does not count. It works only with an interface, which DNS does not
    name.
    """
    parsed = {_parsed(each) for each in addresses}
    counting = [each for each in parsed if _counts(each, settings)]
    return tuple(
        _target(each, settings) for each in sorted(counting, key=lambda at: (at.version, int(at)))
    )


def name_of(prefix: str, address: Address) -> str:
    """The name of the target at an address: `vllm-10.0.0.7`, `vllm-fd00--7` for fd00::7.

    An address contains no "-", so two addresses never share a name.
    """
    return f"{prefix}-{str(address).replace(':', '-')}"


def url_of(scheme: str, host: str, port: int, path: str) -> str:
    """The URL of a server; an IPv6 address goes into brackets."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def _parsed(text: str) -> Address:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _counts(address: Address, settings: DnsDiscovery) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        return settings.addresses != "ipv4" and not address.is_link_local
    return settings.addresses != "ipv6"


def _target(address: Address, settings: DnsDiscovery) -> Target:
    return Target(
        name=name_of(settings.name, address),
        url=url_of(settings.scheme, str(address), settings.port, settings.path),
        **settings.template(),
    )
