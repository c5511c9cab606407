"""The README stays short, begins with a table of contents, and shows the page."""

from __future__ import annotations

import re

from doc_pages import ROOT

TEXT = (ROOT / "README.md").read_text("utf-8")
LINES = TEXT.splitlines()


def test_the_readme_has_less_than_150_lines():
    assert len(LINES) < 150


def test_its_table_of_contents_names_every_section_in_order():
    contents = re.findall(r"\]\(#([\w-]+)\)", TEXT.partition("\n## ")[0])
    titles = [line.lstrip("# ") for line in LINES if re.match("##+ ", line)]
    assert contents == [title.lower().replace(" ", "-") for title in titles]


def test_it_shows_a_picture_of_the_page():
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)
    assert (ROOT / picture).stat().st_size > 10_000
