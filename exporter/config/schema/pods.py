"""The types of setting values that name something of Kubernetes."""

import re
from typing import Annotated, Any

from pydantic import PlainValidator

from exporter.config.schema.values import matching, mistake

_PORTS = range(1, 65536)
_LONGEST_PORT_NAME = 15  # characters

NamespaceName = Annotated[
    str,
    matching(
        r"\*|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        'must be the name of a namespace, or "*" for every one',
    ),
]


def parse_pod_port(value: Any) -> int | str:
    """A port number, or the name of a container's port by the rules of Kubernetes."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value in _PORTS:
        return value
    if isinstance(value, str) and _is_port_name(value):
        return value
    raise mistake('must be a port from 1 to 65535, or the name of a port, such as "http"')


def _is_port_name(value: str) -> bool:
    named = re.fullmatch(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*", value)
    return named is not None and len(value) <= _LONGEST_PORT_NAME


PodPort = Annotated[int | str, PlainValidator(parse_pod_port)]
