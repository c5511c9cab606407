"""The status page at /: one self-contained HTML document, rendered on the server.

It shows strings from engines and containers, so everything is escaped, and its policy allows only
the style and the script of the document itself.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

import exporter
from exporter.model.json_fields import rfc3339
from exporter.web.page.views import charts
from exporter.web.page.views.container import by_cause
from exporter.web.page.views.links import ALL
from exporter.web.page.views.targets import page
from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.metrics.history import History
    from exporter.metrics.store import Metrics
    from exporter.web.page.views.links import PageLinks, PageQuery


_FILTERS = {
    "ago": numbers.ago,
    "bar": charts.bar_width,
    "by_cause": by_cause,
    "count": numbers.count,  # in place of Jinja's own, which is another name of `length`
    "moment": numbers.moment,
    "percent": numbers.percent,
    "rfc3339": rfc3339,
    "seconds": numbers.seconds,
    "size": numbers.size,
    "spaced": numbers.spaced,
    "tokens": numbers.tokens,
}


def response(
    metrics: Metrics,
    history: History,
    now: float,
    links: PageLinks,
    asked: PageQuery = ALL,
) -> web.Response:
    """The page at Unix time `now`. The target or the part that `asked` names must exist."""
    html = template().render(
        page=page(metrics.targets, history, now, links, asked),
        version=exporter.__version__,
        style=_style(),
        script=_script(),
        width=charts.WIDTH,
        height=charts.HEIGHT,
        key_paths=charts.KEY_PATHS,
    )
    return web.Response(
        body=html.encode("utf-8", "replace"),  # an engine's JSON may hold half a surrogate pair
        content_type="text/html",
        charset="utf-8",
        headers={"Content-Security-Policy": _policy()},
    )


@cache
def template() -> Template:
    """The template, compiled by the first call: 20 ms, which may be in another thread."""
    environment = Environment(
        loader=PackageLoader("exporter.web.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _FILTERS
    environment.globals["unknown"] = numbers.UNKNOWN
    return environment.get_template("status.html")


@cache
def _style() -> str:
    return _file("status.css")


@cache
def _script() -> str:
    return _file("status.js")


def _file(name: str) -> str:
    return (resources.files("exporter.web.page") / "templates" / name).read_text("utf-8")


@cache
def _policy() -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(_style())}",
            f"script-src {_hash(_script())}",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
