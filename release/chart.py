"""Renders, checks or packs the Helm chart with Helm's own Go library (helm-python-sdk).

Run in the environment of requirements/release.txt. It is for the tests and for machines without
Helm's program. `template` and `lint` read values as YAML from standard input. Exit code 1, with
Helm's words, if Helm refuses the chart or the values.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import helm_python

CHART = Path(__file__).parents[1] / "deploy" / "helm" / "vllm-cache-exporter"
WARNING = 2
NOTES = "NOTES.txt"


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=["template", "notes", "lint", "package"])
    parser.add_argument("--name", default="vllm-cache-exporter", help="of the release")
    parser.add_argument("--namespace", default="vllm-cache-exporter")
    parser.add_argument("--chart", type=Path, default=CHART)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the package")
    given = parser.parse_args()
    try:
        return _do(given)
    except helm_python.HelmError as error:
        print(error, file=sys.stderr)
        return 1


def _do(given: argparse.Namespace) -> int:
    if given.do == "package":
        print(helm_python.package(given.chart, destination=given.out))
        return 0
    values = helm_python.values_from_yaml(sys.stdin.read() or "{}")
    if given.do == "lint":
        report = helm_python.lint(given.chart, values, strict=True, namespace=given.namespace)
        findings = [each for each in report["messages"] if each["severity"] >= WARNING]
        for each in findings:
            print(f"{each['path']}: {each['error']}")
        return 1 if findings else 0
    with helm_python.Chart.load(given.chart) as chart:
        found = chart.render(values, name=given.name, namespace=given.namespace)
    notes = [path for path in found if path.endswith(NOTES)]
    if given.do == "notes":
        print(found[notes[0]])
    else:
        for path in sorted(found.keys() - notes):
            for part in re.split(r"^---$", found[path], flags=re.MULTILINE):
                if part.strip():  # Helm leaves these out, too
                    print(f"---\n# {path}\n{part.strip()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
