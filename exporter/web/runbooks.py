"""Serves the runbooks of docs/runbooks as pages, so that alerts can link to this server.

/runbooks/ lists them, /runbooks/NAME is one. NAME.md is the same page, because the runbooks link to
each other's files. A wheel has the files beside this module; a checkout has them in docs.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from exporter.web.html_response import environment, html_response, policy, template_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

INDEX = "README"
_HERE = resources.files("exporter.web")
_STYLE = template_file("exporter.web", "runbook.css")
_POLICY = policy(style=_STYLE)


def routes() -> list[web.RouteDef]:
    return [web.get("/runbooks/", _index), web.get("/runbooks/{name}", _one)]


@cache
def sources() -> Mapping[str, str]:
    """The Markdown of each runbook by its name; that of the list is INDEX."""
    packaged = _HERE / "runbook_pages"
    checkout = Path(__file__).parents[2]
    folder: Traversable = packaged if packaged.is_dir() else checkout / "docs" / "runbooks"
    if not folder.is_dir():  # a package without them: everything else works
        return {}
    return {
        file.name.removesuffix(".md"): file.read_text("utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".md")
    }


async def _index(_request: web.Request) -> web.Response:
    return _response(INDEX)


async def _one(request: web.Request) -> web.Response:
    return _response(request.match_info["name"].removesuffix(".md"))


def _response(name: str) -> web.Response:
    if name not in sources():
        raise web.HTTPNotFound
    return html_response(_page(name), _POLICY)


@cache
def _page(name: str) -> str:
    from markdown_it import MarkdownIt  # noqa: PLC0415 - as jinja2 in `environment`

    text = sources()[name]
    title = text.partition("\n")[0].removeprefix("# ")
    # "js-default" supports tables and escapes HTML in the text.
    body = MarkdownIt("js-default").render(text)
    template = environment("exporter.web").get_template("runbook.html")
    return template.render(title=title, body=body, style=_STYLE, is_index=name == INDEX)
