"""The examples of docs/discovery.md are valid."""

from __future__ import annotations

import re

import yaml
from doc_pages import ROOT, blocks

from exporter.config import LABEL_PREFIX, ContainerLabels, DockerDiscovery, load
from exporter.discovery.targets.records import DiscoveryFailure

PAGE = ROOT / "docs" / "discovery.md"
SERVICES = [
    service
    for block in blocks(PAGE)
    if block.language == "yaml"
    for service in yaml.safe_load(block.text)["services"].values()
]


def test_the_variables_of_the_compose_example_are_settings():
    (variables,) = [each["environment"] for each in SERVICES if "environment" in each]
    (source,) = load(environ=variables, dotenv=None).settings.discovery.dns
    assert (source.name, source.host) == ("vllm", "vllm")


def test_the_labels_of_the_compose_example_are_valid():
    (labels,) = [each["labels"] for each in SERVICES if "labels" in each]
    assert f"{LABEL_PREFIX}={labels.pop(LABEL_PREFIX)}" == DockerDiscovery().label
    said = ContainerLabels.model_validate(
        {key.removeprefix(f"{LABEL_PREFIX}."): value for key, value in labels.items()}
    )
    assert said.name == "qwen"


def test_every_label_is_on_the_page_and_no_other():
    told = set(re.findall(rf"`{re.escape(LABEL_PREFIX)}\.(\w+)`", PAGE.read_text("utf-8")))
    assert told == set(ContainerLabels.model_fields)


def test_the_runbook_has_every_failure_reason():
    page = (ROOT / "docs/runbooks/exporter-discovery-failing.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(map(str, DiscoveryFailure))
