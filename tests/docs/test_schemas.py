"""The JSON schemas of docs/schemas."""

from __future__ import annotations

import itertools
import json
import runpy
import tomllib

import jsonschema
import pytest
from doc_pages import PAGES, ROOT, blocks

FOLDER = ROOT / "docs/schemas"
SETTINGS = jsonschema.Draft202012Validator(
    json.loads((FOLDER / "settings.json").read_text("utf-8"))
)
FILES = [
    path.read_text("utf-8")
    for path in sorted((ROOT / "deploy").rglob("*.toml"))
    if path.parent.name != "mixin"  # the settings of the rules, not of the exporter
]
SHOWN = [block.text for page in PAGES for block in blocks(page) if block.language == "toml"]


def test_the_schemas_are_current_make_schemas_writes_them():
    written = {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}
    assert written == runpy.run_path(str(ROOT / "release/schemas.py"))["schemas"]()


def test_the_schema_of_the_chart_s_values_is_current_make_schemas_writes_it():
    script = runpy.run_path(str(ROOT / "release/schemas.py"))
    assert script["CHART"].read_text("utf-8") == script["chart_schema"]()


@pytest.mark.parametrize("text", [*FILES, *SHOWN], ids=itertools.count())
def test_configurations_of_the_docs_and_the_stack_meet_the_schema(text):
    SETTINGS.validate(tomllib.loads(text))


@pytest.mark.parametrize("text", ["lissten = 'x:1'", "[probe]\ninterval_seconds = 'often'"])
def test_a_mistake_does_not_meet_the_schema(text):
    with pytest.raises(jsonschema.ValidationError):
        SETTINGS.validate(tomllib.loads(text))
