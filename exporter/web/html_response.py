"""HTML answers: templates that escape everything, and a policy for what a page may load."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(package: str) -> Environment:
    """The templates in the folder `templates` of a package."""
    import jinja2  # noqa: PLC0415 - takes 2 MB, and many exporters are only read by Prometheus

    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def template_file(package: str, name: str) -> str:
    """The text of a file beside the templates, such as a style."""
    return (resources.files(package) / "templates" / name).read_text("utf-8")


def policy(*, style: str, script: str | None = None) -> str:
    """A Content-Security-Policy that allows this style, and with a script also its requests."""
    parts = [
        "default-src 'none'",
        f"style-src {_hash(style)}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    if script is not None:
        parts += [f"script-src {_hash(script)}", "connect-src 'self'", "img-src 'self' data:"]
    return "; ".join(parts)


def html_response(html: str, content_security_policy: str) -> web.Response:
    return web.Response(
        body=html.encode("utf-8", "replace"),  # an engine's JSON may hold half a surrogate pair
        content_type="text/html",
        charset="utf-8",
        headers={"Content-Security-Policy": content_security_policy},
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
