# ruff: noqa: INP001 - a script, not a module of a package
"""Writes rules/*.yaml: the rule files of deploy/prometheus/rules as PrometheusRule resources.

Kustomize cannot put one file inside another, so this script writes them. A test checks that they
are current. `make mixin` does the same. `--runbooks URL` changes the address in the alerts' links.
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


def resources(runbooks: str = RUNBOOKS, rules: dict[str, str] | None = None) -> dict[str, str]:
    """The text of each resource by the name of its file, of the committed rules or of others."""
    texts = _committed() if rules is None else rules
    return {f"{name}.yaml": _resource(name, text, runbooks) for name, text in texts.items()}


def _resource(name: str, rules: str, runbooks: str) -> str:
    rules = rules.replace(FROM_PROMETHEUS, runbooks)
    return HEAD.format(name=name) + textwrap.indent(rules, "  ")


def _committed() -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(RULES.glob("*.yml"))}


def main() -> None:
    """Write the files that the kustomization reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runbooks", default=RUNBOOKS, metavar="URL", help="default: %(default)s")
    for name, text in resources(parser.parse_args().runbooks).items():
        (HERE / "rules" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
