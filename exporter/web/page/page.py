"""The status page at /: one self-contained HTML document, rendered on the server.

It shows strings from engines and containers, so everything is escaped, and its policy allows only
the style and the script of the document itself.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import exporter
from exporter.model.json_fields import rfc3339
from exporter.web.html_response import environment, html_response, policy, template_file
from exporter.web.page.views import charts
from exporter.web.page.views.container import by_cause
from exporter.web.page.views.records import ALL_TARGETS
from exporter.web.page.views.targets import page
from exporter.wording import numbers

if TYPE_CHECKING:
    from aiohttp import web
    from jinja2 import Template

    from exporter.metrics.history import History
    from exporter.metrics.store import Metrics
    from exporter.web.page.views.records import PageLinks, PageQuery

_PACKAGE = "exporter.web.page"
_STYLE, _SCRIPT = template_file(_PACKAGE, "status.css"), template_file(_PACKAGE, "status.js")
_POLICY = policy(style=_STYLE, script=_SCRIPT)
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
    query: PageQuery = ALL_TARGETS,
) -> web.Response:
    """The page at Unix time `now`. The target or the part that `query` names must exist."""
    html = template().render(page=page(metrics.targets, history, now, links, query))
    return html_response(html, _POLICY)


@cache
def template() -> Template:
    """The template, compiled by the first call: 20 ms, which may be in another thread."""
    made = environment(_PACKAGE)
    made.filters |= _FILTERS
    made.globals |= {
        "version": exporter.__version__,
        "style": _STYLE,
        "script": _SCRIPT,
        "width": charts.WIDTH,
        "height": charts.HEIGHT,
        "key_paths": charts.KEY_PATHS,
        "unknown": numbers.UNKNOWN,
    }
    return made.get_template("status.html")
