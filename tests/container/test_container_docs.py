"""docs/container.md names every state and every cause, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exporter.container.decide.records import Cause, LifecycleState

DOCS = Path(__file__).parents[2] / "docs" / "container.md"


@pytest.mark.parametrize(("heading", "values"), [("States", LifecycleState), ("Causes", Cause)])
def test_the_table_has_one_row_for_each(heading, values):
    section = DOCS.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(values)
