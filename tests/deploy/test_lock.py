"""Only packages that the lock names by hash are installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")


def test_the_image_installs_from_the_lock_or_without_any_index():
    installs = re.findall(r"pip --python \S+ install(.*?)(?:&&|\n)", DOCKERFILE)
    assert (
        len(installs) == len(re.findall(r"\binstall\b", DOCKERFILE.replace("installer", ""))) == 3
    )
    for words in installs:
        locked = "--require-hashes" in words and "requirements/" in words
        assert locked or "--no-index" in words, words
    assert "apt" not in re.findall(r"\w+", DOCKERFILE)
    assert "ADD" not in DOCKERFILE


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements/*.txt")), ids=lambda p: p.stem)
def test_every_locked_package_has_a_hash_and_no_path_or_url(path):
    text = path.read_text("utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 5
    for entry in entries:
        assert re.match(r"[\w.-]+(\[[\w,]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text
    assert "index-url" not in text
