"""The import rules of pyproject.toml: folders only, and a rule that is broken is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("import rules")  # lint-imports runs once for all tests
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "exporter"
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONTRACTS: dict[str, dict[str, Any]] = {
    each["id"]: each for each in CONFIG["tool"]["importlinter"]["contracts"]
}
PURE = CONTRACTS["purity"]["source_modules"]
MOST_FILES = 12
BASE = {"exporter.errors"}
"""A file and no folder: all rooms stand on it."""


def files_in(folder: Path) -> list[Path]:
    return [each for each in folder.glob("*.py") if each.name != "__init__.py"]


def rooms() -> list[Path]:
    return sorted({each.parent for each in PACKAGE.rglob("*.py")})


@pytest.mark.parametrize("room", rooms(), ids=lambda room: str(room.relative_to(ROOT)))
def test_a_folder_has_few_enough_files_to_be_read_at_a_glance(room):
    found = files_in(room)
    assert len(found) <= MOST_FILES, f"{room}: {len(found)} files; give it folders of their own"


def test_a_rule_names_folders_and_no_files():
    named = {
        module
        for contract in CONTRACTS.values()
        for key in ("source_modules", "allowed_importers", "ancestors")
        for module in contract.get(key, ())
    }
    lone = {name for name in named if not (ROOT / name.replace(".", "/")).is_dir()}
    assert lone <= BASE


def test_a_file_that_says_that_it_is_pure_stands_in_a_pure_room():
    pure = [ROOT / name.replace(".", "/") for name in PURE]
    pure += [ROOT / name.replace(".", "/") for name in CONTRACTS["discovery"]["source_modules"]]
    for path in PACKAGE.rglob("*.py"):
        head = path.read_text("utf-8")[:1000]
        if "Pure." in head or "(pure)" in head:
            assert any(room in path.parents or room.with_suffix(".py") == path for room in pure), (
                f"{path.relative_to(ROOT)} says that it is pure; its folder is not held to it"
            )


def test_each_room_has_tests_of_its_name():
    for room in rooms():
        top = room.relative_to(PACKAGE).parts[:1]
        if top and top != ("model",):  # records have no behaviour
            assert (ROOT / "tests" / top[0]).is_dir(), f"no tests/{top[0]} for {room}"


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> str:
    """What lint-imports says of a copy in which each pure room imports what none may."""
    copy = tmp_path_factory.mktemp("broken")
    shutil.copytree(PACKAGE, copy / "exporter", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for room in PURE:
        folder = copy / room.replace(".", "/")
        if folder.is_dir():
            mistakes = "\n".join(f"import {name}" for name in FORBIDDEN)
            (folder / "impure.py").write_text(mistakes + "\n", encoding="utf-8")
    (copy / "exporter" / "probe" / "short_way.py").write_text("import docker\nimport aiohttp\n")
    (copy / "exporter" / "attic").mkdir()
    (copy / "exporter" / "attic" / "__init__.py").touch()
    for one, other in (("here", "there"), ("there", "here")):
        (copy / "exporter" / "analysis" / f"{one}.py").write_text(
            f"import exporter.analysis.{other}\n", encoding="utf-8"
        )
    tool = Path(sys.executable).parent / "lint-imports"
    ended = subprocess.run(
        [tool, "--no-cache"], cwd=copy, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 1
    return " ".join(ended.stdout.split())  # it breaks its lines


FORBIDDEN = ("asyncio", "time", "logging", "structlog", "exporter.clock", "exporter.config")


@pytest.mark.parametrize("module", FORBIDDEN)
@pytest.mark.parametrize("room", [name for name in PURE if name not in BASE])
def test_the_rules_find_a_pure_room_that_imports_what_none_may(broken, room, module):
    assert f"{room}.impure -> {module} (l." in broken


def test_the_rules_find_a_second_way_to_docker_or_to_an_engine(broken):
    assert "exporter.probe.short_way -> docker (l." in broken
    assert "exporter.probe.short_way -> aiohttp (l." in broken


def test_the_rules_find_two_files_that_import_each_other(broken):
    assert "No two files and no two folders import each other BROKEN" in broken


def test_the_rules_find_a_room_that_has_no_place_among_the_layers(broken):
    assert "attic" in broken
