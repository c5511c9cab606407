"""The SBOM: every package of the lock, and the same bytes each time."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from exporter import __version__

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements" / "run.txt").read_text("utf-8")


@pytest.fixture(scope="module")
def written(release_tools, tmp_path_factory) -> bytes:
    return write(release_tools, tmp_path_factory.mktemp("sbom"))


@pytest.fixture(scope="module")
def sbom(written):
    return json.loads(written)


def write(release_tools: Path, folder: Path) -> bytes:
    output = folder / "new" / "sbom.cdx.json"
    command = [release_tools / "python", ROOT / "release" / "sbom.py", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return output.read_bytes()


def locked() -> dict[tuple[str, str], set[str]]:
    """Hashes of each package of the lock, by name and version."""
    found = {}
    for entry in re.split(r"\n(?=\S)", LOCK.strip()):
        name, version = re.match(r"([\w.-]+)==([^\s;]+)", entry).groups()
        found[name, version] = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
    return found


def test_every_locked_package_is_listed_with_its_version_and_hashes(sbom):
    listed = {
        (each["name"], each["version"]): {
            one["content"]
            for reference in each["externalReferences"]
            for one in reference["hashes"]
            if one["alg"] == "SHA-256"
        }
        for each in sbom["components"]
    }
    assert len(sbom["components"]) == len(re.findall(r"^\S", LOCK, re.MULTILINE)) == len(locked())
    assert all(locked().values())
    assert listed == locked()


def test_each_package_can_be_looked_up_by_its_purl(sbom):
    purls = {each["purl"] for each in sbom["components"]}
    assert purls == {f"pkg:pypi/{name}@{version}" for name, version in locked()}


def test_the_sbom_names_the_exporter_and_its_dependencies(sbom):
    main = sbom["metadata"]["component"]
    assert (main["name"], main["version"]) == ("vllm-cache-exporter", __version__)
    (asked,) = [e["dependsOn"] for e in sbom["dependencies"] if e["ref"] == main["bom-ref"]]
    by_reference = {each["bom-ref"]: each["name"] for each in sbom["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {by_reference[each] for each in asked} == {
        re.match(r"[\w-]+", line)[0] for line in project["dependencies"]
    }


def test_the_sbom_is_the_same_each_time(release_tools, written, tmp_path):
    assert write(release_tools, tmp_path) == written
    assert b"timestamp" not in written
