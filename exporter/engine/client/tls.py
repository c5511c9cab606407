"""Whom an engine's certificate is checked against."""

from __future__ import annotations

import ssl
from functools import cache


def trust(*, verify: bool, ca_file: str | None, secure: bool) -> ssl.SSLContext | bool:
    """What aiohttp is to be given as `ssl`.

    Where no https is spoken, that is its default, under which cli/main.py leaves nobody trusted.
    Raises `OSError` for a file that cannot be read or has no certificates.
    """
    if not verify:
        return False
    if ca_file is not None:
        return ssl.create_default_context(cafile=ca_file)
    return _system() if secure else True


@cache
def _system() -> ssl.SSLContext:
    """Read once, at the first https engine: it takes 20 ms and a megabyte."""
    return ssl.create_default_context()
