"""Refuses settings with which a managed container cannot be reached at the target's URL.

With a wrong address the engine would seem never to become ready. A URL that may lead to the
container by other means (a proxy on another machine, a network name) is accepted.
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from exporter.config.schema.container import ContainerSettings
from exporter.config.schema.vllm_flags import flag_of

VLLM_PORT = 8000
"""The port that vLLM listens on if nothing else is set."""
_SCHEME_PORTS = {"http": 80, "https": 443}
_TLS_FLAGS = {"--ssl-certfile", "--ssl-keyfile"}


def contradictions(
    url: str | None, name: str, container: ContainerSettings
) -> list[tuple[str, str]]:
    """Each key of the container's settings that contradicts `url`, with a message.

    `name` is the container's.
    """
    if container.network == "none":
        return [("network", 'must not be "none": the container could not be reached at any url')]
    if url is None:
        tls = _speaks_tls(container)
        return [("args", "have TLS flags: set the target's url to an https URL")] if tls else []
    parts = urlsplit(url)
    here = _is_here(parts.hostname or "", container)
    found = list(_wrong_place(url, parts, container)) if here else []
    if not found and (here or _is_its_name(parts, name, container)):
        found = list(_wrong_scheme(url, parts, container))
    return found


def _wrong_place(
    url: str, parts: SplitResult, container: ContainerSettings
) -> Iterable[tuple[str, str]]:
    """`url` leads to a port of this machine; it must be the published one."""
    port, beside = container.host_port, f"contradicts url, which is {url!r}"
    if container.network == "host":
        port = port or VLLM_PORT
    if not port:
        yield "host_port", f"{beside}: the container has no port on this machine"
    elif _port(parts) != port:
        nothing = f"the container does not listen on {_port(parts)}"
        yield "host_port", f"{beside}: {nothing}; use the same port in both"
    elif not _covers(container.host_ip, parts.hostname or ""):
        yield "host_ip", f"{beside}: the port is published only on this address; use it in url"


def _wrong_scheme(
    url: str, parts: SplitResult, container: ContainerSettings
) -> Iterable[tuple[str, str]]:
    """`url` leads to vLLM itself, so the schemes must agree."""
    if container.command is not None:
        return
    if parts.scheme == "https" and not _speaks_tls(container):
        lacking = "without --ssl-certfile and --ssl-keyfile vLLM speaks http"
        yield "args", f"contradict url, which is {url!r}: {lacking}"
    elif parts.scheme == "http" and _speaks_tls(container):
        yield "args", f"contradict url, which is {url!r}: with these flags vLLM speaks https"


def _speaks_tls(container: ContainerSettings) -> bool:
    """Whether vLLM's flags turn TLS on; with `command` there are none."""
    return any(flag_of(argument) in _TLS_FLAGS for argument in container.args)


def _is_here(host: str, container: ContainerSettings) -> bool:
    """Whether a host is this machine, and Docker publishes ports on it."""
    docker = urlsplit(container.docker_host)
    if docker.scheme != "unix" and not is_loopback(docker.hostname or ""):
        return False
    return is_loopback(host) or host == container.host_ip


def _is_its_name(parts: SplitResult, name: str, container: ContainerSettings) -> bool:
    """Whether a URL leads to vLLM's own port by the container's name in a user-defined network."""
    named = container.network not in {None, "bridge", "default", "host"}
    return named and parts.hostname == name.lower() and _port(parts) == VLLM_PORT


def _port(parts: SplitResult) -> int:
    return parts.port or _SCHEME_PORTS[parts.scheme]


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine."""
    address = _address(host)
    if address is None:
        return host.rstrip(".") == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _covers(published: str, host: str) -> bool:
    """Whether a port published on this address can be reached at `host`."""
    at, asked = ipaddress.ip_address(published), _address(host)
    if at.is_unspecified:
        return True
    if asked is None or asked.is_unspecified:  # localhost is 127.0.0.1 and ::1
        return at.is_loopback
    return at == asked
