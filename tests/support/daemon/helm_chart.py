"""Helm's library, in the environment of the release tools, applied to the chart."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "vllm-cache-exporter"
NAME = "vllm-cache-exporter"


class Helm:
    """Runs `release/chart.py`; the release and its namespace have the chart's name."""

    def __init__(self, python: Path) -> None:
        self._command = [str(python), str(ROOT / "release" / "chart.py")]

    def run(self, do: str, values: dict[str, Any], *more: str) -> tuple[int, str, str]:
        """Exit code, output and errors, less Helm's remarks about the chart's two links."""
        done = subprocess.run(
            [*self._command, do, *more],
            input=as_yaml(values),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        said = [line for line in done.stderr.splitlines() if " INFO " not in line]
        return done.returncode, done.stdout, "\n".join(said)

    def text(self, values, *, name: str = NAME, namespace: str = NAME) -> str:
        code, text, errors = self.run("template", values, "--name", name, "--namespace", namespace)
        assert (code, errors) == (0, "")
        return text

    def listed(self, values, **place: str) -> list[dict[str, Any]]:
        return list(yaml.load_all(self.text(values, **place), Loader=yaml.CSafeLoader))

    def objects(self, values, **place: str) -> dict[tuple[str, str], dict[str, Any]]:
        """The objects by kind and name; no two have both in common."""
        listed = self.listed(values, **place)
        found = {(each["kind"], each["metadata"]["name"]): each for each in listed}
        assert len(found) == len(listed)
        return found

    def refused(self, values) -> str:
        """Why Helm refuses the values."""
        code, text, errors = self.run("template", values)
        assert (code, text) == (1, "")
        return errors

    def package(self, folder: Path) -> None:
        code, _, errors = self.run("package", {}, "--out", str(folder))
        assert (code, errors) == (0, "")


def as_yaml(values: dict[str, Any]) -> str:
    """JSON that is YAML, too: without pairs of surrogates and without the character DEL."""
    return json.dumps(values, ensure_ascii=False).replace("\x7f", "\\u007f")
