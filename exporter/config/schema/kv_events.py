"""The address of an engine's KV events, and what must hold for it."""

import re
from importlib.util import find_spec
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from exporter.config.schema.container import ContainerSettings
from exporter.config.schema.reach import is_loopback
from exporter.config.schema.values import mistake

_PORTS = range(1, 65536)
EXTRA_PACKAGES = ("zmq", "msgspec")
"""The modules of the extra `events`."""


def _check(value: str) -> str:
    found = re.fullmatch(r"ipc://[^\s*]+|tcp://([^\s/@*:]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})", value)
    if found is None or not (found[2] is None or int(found[2]) in _PORTS):
        raise mistake(
            'must be "tcp://HOST:PORT", such as "tcp://127.0.0.1:5557", where vLLM has the '
            'endpoint "tcp://*:5557"; or "ipc:///PATH"'
        )
    if any(find_spec(name) is None for name in EXTRA_PACKAGES):
        raise mistake("needs pyzmq and msgspec: pip install 'pyzmq>=26' 'msgspec>=0.19'")
    return value


KvEventsUrl = Annotated[str, AfterValidator(_check)]


def unpublished(url: str | None, container: ContainerSettings) -> str | None:
    """Why a managed container's events cannot be received at `url`; None if they may be.

    Only vLLM's own port is published on this machine.
    """
    host = "" if url is None else urlsplit(url).hostname or ""
    if url is None or not url.startswith("tcp://") or container.network == "host":
        return None
    if not is_loopback(host):
        return None
    return (
        f"contradicts kv_events_url, which is {url!r}: this port of the container is not "
        'published. Use "host", or a network that the exporter is in, and the container\'s name in '
        "kv_events_url"
    )
