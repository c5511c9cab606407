"""The status page at /: one self-contained HTML document, rendered on the server.

It shows strings from engines and containers, so everything is escaped, and its policy allows only
the style and the script of the document itself.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING

from aiohttp import web

import exporter
from exporter.model.json_fields import rfc3339
from exporter.web.html_response import environment, html_response, policy, template_file
from exporter.web.page.views import charts
from exporter.web.page.views.sentences import by_cause
from exporter.web.page.views.targets import page, page_count
from exporter.web.parameters import BadRequestError, asked_target, whole_number
from exporter.wording import numbers
from exporter.wording.reuse_rules import GIVEN_UP

if TYPE_CHECKING:
    from jinja2 import Template

    from exporter.clock import Clock
    from exporter.metrics.history import History
    from exporter.metrics.store import Metrics
    from exporter.web.page.views.records import PageLinks

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


def routes(
    metrics: Metrics, history: History, clock: Clock, links: PageLinks
) -> list[web.RouteDef]:
    async def status_page(request: web.Request) -> web.Response:
        # The first time it compiles the template for 20 ms: not in the event loop.
        template = await asyncio.to_thread(_template)
        try:
            only = asked_target(request, metrics.targets)
            number = whole_number(request, "page", page_count(len(metrics.targets))) or 1
        except BadRequestError:
            raise web.HTTPNotFound from None
        shown = page(metrics.targets, history, clock.time(), links, only=only, number=number)
        return html_response(template.render(page=shown), _POLICY)

    return [web.get("/", status_page)]


@cache
def _template() -> Template:
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
        "given_up": GIVEN_UP,
    }
    return made.get_template("status.html")
