"""The component that finds engines by the cluster's API: one right, one token, one way out."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml
from deploy_stack import ROOT
from fake_kubernetes import pod_object

from exporter.config import KubernetesDiscovery, load

NAME = "vllm-cache-exporter"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
BASE = f"resources: [{NAME}/deploy/kubernetes]\n"


@pytest.fixture(scope="module")
def resources(kubectl, tmp_path_factory):
    """Those of the kustomization in the docs with the component in the docs."""
    folder = tmp_path_factory.mktemp("discovery")
    (component,) = re.findall(r"```yaml\n(components:.*?)```", PAGE, re.DOTALL)
    (folder / "kustomization.yaml").write_text(BASE + component)
    for part in ("deploy/kubernetes", "grafana"):
        shutil.copytree(ROOT / part, folder / NAME / part)
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    listed = list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))
    return {(each["kind"], each["metadata"]["name"]): each for each in listed}


@pytest.fixture
def source(resources, tmp_path) -> KubernetesDiscovery:
    (data,) = [
        each["data"]
        for (kind, _), each in resources.items()
        if kind == "ConfigMap" and "exporter.toml" in each["data"]
    ]
    file = tmp_path / "exporter.toml"
    file.write_text(data["exporter.toml"])
    settings = load(config_file=file, environ={}, dotenv=None).settings
    assert settings.discovery.dns == ()
    (only,) = settings.discovery.kubernetes
    return only


# The pods of the API that the tests of discovery imitate.
IMITATED = [
    {"apiVersion": "v1", "kind": "Pod", **pod_object(**facts)}
    for facts in (
        {},
        {"phase": "Pending", "ip": ""},
        {"terminating": True, "annotations": {"a": "b"}},
    )
]


@pytest.mark.parametrize("imitated", [False, True])
def test_every_resource_fits_its_schema(resources, release_tools, imitated):
    command = [release_tools / "python", ROOT / "release" / "manifests.py"]
    done = subprocess.run(
        [*command, "--kubernetes", "1.28", "1.37"],
        input=yaml.safe_dump_all(IMITATED if imitated else resources.values()),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_the_exporter_may_read_pods_where_it_looks_for_them_and_nothing_else(resources, source):
    role, binding = (resources[kind, NAME] for kind in ("Role", "RoleBinding"))
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]
    assert [role["metadata"]["namespace"]] == list(source.namespaces)
    assert binding["metadata"]["namespace"] == role["metadata"]["namespace"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = resources["ServiceAccount", NAME]
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == (NAME, account["metadata"]["namespace"])
    assert not [kind for kind, _ in resources if kind.startswith("ClusterRole")]


def test_the_pod_gets_the_token_of_that_account(resources):
    pod = resources["Deployment", NAME]["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == (NAME, True)


def test_the_network_policy_allows_the_api_and_the_pods_that_are_found(resources, source):
    _, engine, cluster = resources["NetworkPolicy", NAME]["spec"]["egress"]
    assert cluster == {
        "ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]
    }
    assert [each["port"] for each in engine["ports"]] == [source.port]
    (peer,) = engine["to"]
    ((key, value),) = peer["podSelector"]["matchLabels"].items()
    assert source.label_selector == f"{key}={value}"
