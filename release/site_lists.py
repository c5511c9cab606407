"""A hook of mkdocs: blocks inside a list item, as GitHub reads them.

For GitHub a block belongs to an item if it is indented as far as the item's text. Python-Markdown,
which makes the site, wants four spaces. Otherwise a list ends at its first block, and the next
item is number 1 again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

INDENT = 4
_ITEM = re.compile(r"(?:\d\.|[-*]) +(?=\S)")
_FENCE = re.compile(r" *```")


def on_page_markdown(markdown: str, **_: object) -> str:
    return "\n".join(_deeper(markdown.split("\n")))


def _deeper(lines: list[str]) -> Iterator[str]:
    """Each line inside an item with the indentation that is missing."""
    width, fenced = 0, False  # of the item's marker; 0 outside items
    for line in lines:
        if not fenced and (item := _ITEM.match(line)):
            width = item.end()
        elif not fenced and line and not line.startswith(" " * max(width, 1)):
            width = 0
        fenced ^= bool(_FENCE.match(line))
        inside = width and line.startswith(" " * width)
        yield " " * (INDENT - width) + line if inside else line
