# ruff: noqa: INP001 - a script, not a module of a package
"""Writes rules/*.yaml: the rule files of deploy/prometheus/rules as PrometheusRule resources.

Kustomize cannot put one file inside another, so this script writes them. A test checks that they
are current. `--runbooks URL` changes the address in the alerts' links.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
RULES = HERE.parent / "prometheus" / "rules"
FROM_PROMETHEUS = "{{ $externalLabels.runbooks }}"  # only compose.yaml's Prometheus has that label
RUNBOOKS = "http://vllm-cache-exporter.vllm-cache-exporter.svc:9477/runbooks"
HEAD = """\
# Written by deploy/kubernetes/build.py from deploy/prometheus/rules/{name}.yml; do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: vllm-cache-{name}
  labels: {{app.kubernetes.io/name: vllm-cache-exporter}}
spec:
"""


def resources(runbooks: str = RUNBOOKS) -> dict[str, str]:
    """The text of each resource, by the name of its file."""
    return {f"{path.stem}.yaml": _resource(path, runbooks) for path in sorted(RULES.glob("*.yml"))}


def _resource(path: Path, runbooks: str) -> str:
    rules = path.read_text(encoding="utf-8").replace(FROM_PROMETHEUS, runbooks)
    return HEAD.format(name=path.stem) + textwrap.indent(rules, "  ")


def main() -> None:
    """Write the files that the kustomization reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runbooks", default=RUNBOOKS, metavar="URL", help="default: %(default)s")
    for name, text in resources(parser.parse_args().runbooks).items():
        (HERE / "rules" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
