"""Writes a CycloneDX SBOM of the locked packages.

Run by `make sbom`, in the environment of requirements/release.txt. The same lock gives the same
bytes. With SOURCE_DATE_EPOCH in the environment they contain that time.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from version import version

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements/run.txt"
SPECIFICATION = SchemaVersion.V1_6


def main() -> None:
    """Write the file, and print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="default: dist/, named after the version")
    wanted: Path | None = parser.parse_args().output
    output = wanted or ROOT / f"dist/vllm_cache_exporter-{version()}.cdx.json"
    text = json.dumps(_named(_listed()), indent=2, sort_keys=True) + "\n"
    mistake = JsonStrictValidator(SPECIFICATION).validate_str(text)
    if mistake is not None:
        raise SystemExit(f"that is no CycloneDX {SPECIFICATION.to_version()}: {mistake}")
    output.parent.mkdir(exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(f"{output} lists {len(json.loads(text)['components'])} packages")


def _listed() -> dict[str, Any]:
    """The lock as the tool lists it: name, version and hashes of every package."""
    tool = Path(sys.executable).with_name("cyclonedx-py")
    command = [tool, "requirements", LOCK, "--pyproject", ROOT / "pyproject.toml"]
    how = ["--sv", SPECIFICATION.to_version(), "--of", "JSON", "--output-reproducible", "-o", "-"]
    # It warns that it knows no dependencies of the main component: `_named` tells them.
    done = subprocess.run([*command, *how], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"cyclonedx-py failed: {done.stderr}")
    listed: dict[str, Any] = json.loads(done.stdout)
    return listed


def _named(sbom: dict[str, Any]) -> dict[str, Any]:
    """The same with the exporter's version and what it asks for itself.

    The descriptions go: each repeats its line of the lock, hashes included.
    """
    for component in sbom["components"]:
        del component["description"]
    main = sbom["metadata"]["component"]
    main["version"] = version()
    main["purl"] = f"pkg:pypi/{_normal(main['name'])}@{version()}"
    by_name = {_normal(each["name"]): each["bom-ref"] for each in sbom["components"]}
    asked = sorted(by_name[name] for name in _asked_for())
    sbom["dependencies"] = [
        {"ref": main["bom-ref"], "dependsOn": asked},
        *(each for each in sbom["dependencies"] if each["ref"] != main["bom-ref"]),
    ]
    return sbom


def _asked_for() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [_normal(re.split(r"[^\w.-]", line)[0]) for line in project["dependencies"]]


def _normal(name: str) -> str:
    """A package's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
