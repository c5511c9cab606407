"""Only packages that the lock names by hash are installed."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


def locked(name: str) -> dict[str, str]:
    """The versions in requirements/NAME.txt by package."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;]+)", text, re.MULTILINE))


def test_the_demo_installs_what_the_exporter_imports_and_no_tool_of_the_tests():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed = {Requirement(line).name for line in project["project"]["dependencies"]}
    demo = set(locked("demo"))
    assert needed <= demo
    assert demo <= set(locked("run")) | set(locked("build"))
    groups = project["dependency-groups"]
    tools = [
        *(line for name in ("test", "check", "dashboards", "release") for line in groups[name]),
        *(line for lines in project["project"]["optional-dependencies"].values() for line in lines),
    ]
    assert not demo & {Requirement(line).name for line in tools}


@pytest.mark.parametrize("name", ["demo", "run", "build"])
def test_the_environments_of_demo_image_and_tests_have_the_same_versions(name):
    dev = locked("dev")
    assert {package: dev[package] for package in locked(name)} == locked(name)


def test_make_demo_installs_from_its_own_lock_and_make_install_adds_that_of_the_tests():
    def steps(target: str) -> str:
        command = ["make", "--dry-run", "--always-make", target]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    demo, install = steps("demo"), steps("install")
    assert re.findall(r"requirements/(\w+)\.txt", demo) == ["demo"]
    assert re.findall(r"requirements/(\w+)\.txt", install) == ["demo", "dev"]
    assert "--require-hashes" in demo
