"""Files and images of this project that are named have the version of this checkout."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from doc_pages import PAGES, ROOT

from exporter import __version__

OTHERS = (ROOT / name for name in ("compose.yaml", "Dockerfile", "deploy/exporter/simulator.env"))
NAMED = re.compile(r"(?:vllm_cache_exporter-|vllm-cache-exporter:|ARG VERSION=)(\d+\.\d+\.\d+)")


@pytest.mark.parametrize("path", [*PAGES, *OTHERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_wheels_and_images_that_are_named_have_this_version(path):
    assert set(NAMED.findall(path.read_text("utf-8"))) <= {__version__}


def make_image(folder):
    command = ["make", "--dry-run", "image"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_image_tags_the_version_and_labels_the_revision_if_git_knows_it(tmp_path):
    (tmp_path / "exporter").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "exporter/__init__.py", tmp_path / "exporter")
    without = make_image(tmp_path)
    assert f"--tag vllm-cache-exporter:{__version__} ." in without
    assert "REVISION" not in without
    assert "--label" not in without
    who = ["-c", "user.name=test", "-c", "user.email=test@example"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True)
    head = ["git", "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(head, cwd=tmp_path, capture_output=True, text=True, check=True)
    revision = commit.stdout.strip()
    known = make_image(tmp_path)
    assert f"--build-arg REVISION={revision}" in known
    assert f"--label org.opencontainers.image.revision={revision}" in known
