"""The reference in the documentation comes from the models."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from exporter.config import load
from exporter.config.schema import keys
from exporter.config.telling.reference import reference, renew

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_has_the_current_reference():
    page = PAGE.read_text(encoding="utf-8")
    assert renew(page) == page, (
        "run: python -m exporter.config.telling.reference docs/configuration.md"
    )


def test_every_setting_is_in_the_reference_with_a_description():
    text = reference()
    for leaf in keys.leaves():
        assert f"| `{leaf.key[-1]}` |" in text
        assert keys.description(leaf.field), keys.show(leaf.key)


def test_every_example_on_the_page_is_a_valid_file(tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    examples = [part.split("```")[0] for part in page.split("```toml\n")[1:]]
    assert examples
    for name in ("api-key", "hf-token"):
        (tmp_path / name).write_text("secret", encoding="utf-8")
    for example in examples:
        file = tmp_path / "exporter.toml"
        file.write_text(example, encoding="utf-8")
        loaded = load(config_file=file, environ={}, dotenv=None, secrets_dir=tmp_path)
        assert len(loaded.settings.targets) == len(tomllib.loads(example).get("targets", []))


def test_a_page_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="lacks the marks"):
        renew("# Configuration\n")
