"""Accessibility of the page: structure for keyboards and screen readers, contrast of colours.

A browser with axe-core says more: see "Looking at the page" in ARCHITECTURE.md.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import page_scene
import pytest

import exporter.web.page

CSS = (Path(exporter.web.page.__file__).parent / "templates/status.css").read_text("utf-8")


class Tree(HTMLParser):
    """Elements in their order, each with the elements around it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.loose: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self._open)))
        if tag not in {"meta", "link", "rect"}:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            assert self._open.pop() == tag

    def handle_data(self, data):
        landmarks = {"header", "main", "footer", "script", "head"}
        if data.strip() and not landmarks & set(self._open):
            self.loose.append(data)

    def all(self, *tags: str):
        return [element for element in self.elements if element[0] in tags]


@pytest.fixture(params=["three", "twenty", "none"])
async def tree(request, client, published):
    if request.param == "three":
        page_scene.three(published.metrics, published.history)
    elif request.param == "twenty":
        page_scene.many(published.metrics, published.history, 20)
    return Tree(await (await client.get("/")).text())


async def test_all_text_is_in_a_landmark_and_there_is_one_of_each(tree):
    assert tree.loose == []
    for landmark in ("header", "nav", "main", "footer"):
        assert len(tree.all(landmark)) == 1
    assert tree.all("nav")[0][1]["aria-label"]


async def test_headings_begin_at_one_and_skip_no_level(tree):
    levels = [int(tag[1]) for tag, _, _ in tree.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


async def test_each_region_has_a_name_of_its_own_and_can_be_scrolled_by_keyboard(tree):
    regions = [attrs for _, attrs, _ in tree.elements if attrs.get("role") == "region"]
    names = [attrs["aria-labelledby"] for attrs in regions]
    assert len(names) == len(set(names))
    assert all(attrs["tabindex"] == "0" for attrs in regions)
    assert len(regions) == len(tree.all("table"))


async def test_each_table_has_a_caption_and_headers_of_rows_and_columns(tree):
    tables = len(tree.all("table"))
    assert len(tree.all("caption")) == tables
    scopes = [attrs["scope"] for _, attrs, _ in tree.all("th")]
    assert set(scopes) <= {"col", "row"}
    cells = [(tag, attrs) for tag, attrs, above in tree.all("th", "td") if "tbody" in above]
    rows = len([above for _, _, above in tree.all("tr") if "tbody" in above])
    assert sum(attrs.get("scope") == "row" for _, attrs in cells) == rows


async def test_each_picture_has_a_name_and_a_description_or_is_hidden(tree):
    ids = {attrs["id"] for _, attrs, _ in tree.elements if "id" in attrs}
    for _, attrs, _ in tree.all("svg"):
        if attrs.get("aria-hidden") == "true":
            continue
        assert attrs["role"] == "img"
        assert {attrs["aria-labelledby"], attrs["aria-describedby"]} <= ids


async def test_ids_are_unique_and_nothing_changes_the_order_of_tabs(tree):
    ids = [attrs["id"] for _, attrs, _ in tree.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["tabindex"] for _, attrs, _ in tree.elements if "tabindex" in attrs} <= {"0"}


async def test_link_texts_are_clear_without_their_context(client, published):
    page_scene.three(published.metrics, published.history)
    html = await (await client.get("/")).text()
    for text in re.findall(r"<a [^>]*>([^<]*)</a>", html):
        assert text.strip().lower() not in {"", "here", "click here", "more", "link"}


def palette(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", dark))
    return colours


def luminance(colour: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
    digits = colour.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


TEXT = [
    *((text, ground) for text in ("ink", "quiet", "link") for ground in ("ground", "card")),
    *(("ink", ground) for ground in ("bad-ground", "note-ground")),
    *(("link", ground) for ground in ("bad-ground",)),
    *((tone, f"{tone}-ground") for tone in ("good", "bad", "wait")),
    ("bad", "card"),
    ("card", "link"),
]
GRAPHICS = [(mark, "card") for mark in ("hit", "lost", "new")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT)
def test_text_has_enough_contrast(scheme, text, ground):
    colours = palette(scheme)
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("mark", "ground"), GRAPHICS)
def test_marks_of_charts_have_enough_contrast(scheme, mark, ground):
    colours = palette(scheme)
    assert contrast(colours[mark], colours[ground]) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_that_is_used_is_defined(scheme):
    assert set(re.findall(r"var\(--([\w-]+)\)", CSS)) <= set(palette(scheme))


def test_the_contrast_of_black_on_white_is_twenty_one():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
