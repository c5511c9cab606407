"""The Helm chart, rendered by Helm's own library: valid, and equal to the kustomization."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tomllib
from typing import Any

import pytest
import yaml
from deploy_stack import ROOT
from helm_chart import CHART, NAME

from exporter import __version__
from exporter.config import load

KUSTOMIZE = ROOT / "deploy" / "kubernetes"
WITH_OPERATOR = {
    key: {"enabled": True} for key in ("serviceMonitor", "prometheusRule", "dashboards")
}
TARGETS = {"targets": [{"name": "a", "url": "http://vllm.vllm.svc:8000"}]}
EVERYTHING = {
    **WITH_OPERATOR,
    "config": TARGETS
    | {
        "probe": {"interval_seconds": 30, "max_prefill_share_ratio": 0.5},
        "discovery": {"kubernetes": [{"name": "all", "namespaces": ["*"], "port": "http"}]},
    },
    "image": {"repository": "registry.example/vce", "digest": f"sha256:{'a' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "secrets": {"existingSecret": "keys"},
    "web": {"tlsSecret": "exporter-tls", "probeHeaders": [{"name": "Authorization", "value": "x"}]},
    "service": {"type": "NodePort", "port": 80, "annotations": {"a": "b"}},
    "serviceAccount": {"annotations": {"a": "b"}},
    "serviceMonitor": {
        "enabled": True,
        "labels": {"release": "kps"},
        "tlsConfig": {"insecureSkipVerify": True},
        "basicAuth": {"username": {"name": "s", "key": "u"}, "password": {"name": "s", "key": "p"}},
        "metricRelabelings": [{"action": "labeldrop", "regex": "turn"}],
    },
    "networkPolicy": {"extraEgress": [{"ports": [{"protocol": "TCP", "port": 9000}]}]},
    "engineService": {"enabled": True},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "x"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "extraVolumes": [{"name": "ca", "secret": {"secretName": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}],
}


@pytest.fixture(scope="module")
def everything(helm) -> dict:
    return helm.objects(EVERYTHING)


@pytest.mark.parametrize(
    "values",
    [
        {"config": TARGETS},
        EVERYTHING,
        EVERYTHING | {"web": {"configSecret": "web"}, "networkPolicy": {"enabled": False}},
        {"config": {"discovery": {"kubernetes": [{}]}}, "serviceAccount": {"create": False}},
    ],
    ids=["least", "everything", "own web configuration", "no service account"],
)
def test_every_object_fits_its_schema_and_helm_lint_finds_nothing(helm, release_tools, values):
    command = [release_tools / "python", ROOT / "release" / "manifests.py"]
    done = subprocess.run(
        [*command, "--kubernetes", "1.28", "1.37"],
        input=helm.text(values),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert helm.run("lint", values) == (0, "", "")


def test_the_default_values_only_lack_an_engine(helm):
    assert helm.run("lint", {}) == (0, "", "")
    assert (
        "the exporter has no engine: set config.targets, config.discovery.dns or"
        in helm.refused({})
    )


def kustomized(kubectl: str, folder) -> list[dict]:
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=True, timeout=120
    )
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def plain(found: list[dict]) -> dict[tuple[str, str, str], Any]:
    """Objects by kind, namespace and name, without what is a tool's own.

    Kustomize appends a hash to the name of the configuration, Helm puts it into an annotation.
    Helm names rules and dashboards after the release, adds labels, and makes no namespace.
    """
    objects = {}
    for each in without_tools(json.loads(json.dumps(found))):
        if each["kind"] == "Namespace":
            continue
        meta = each["metadata"]
        meta["name"] = common_name(meta["name"])
        meta.setdefault("namespace", NAME)
        if "exporter.toml" in each.get("data", {}):
            each["data"]["exporter.toml"] = tomllib.loads(each["data"]["exporter.toml"])
        objects[each["kind"], meta["namespace"], meta["name"]] = each
    assert len(objects) == len([each for each in found if each["kind"] != "Namespace"])
    return objects


OWN = (
    "helm.sh/chart",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "checksum/config",
)
MANAGED = "app.kubernetes.io/managed-by"


def without_tools(value: Any) -> Any:
    if isinstance(value, list):
        return [without_tools(each) for each in value]
    if not isinstance(value, dict):
        return common_name(value) if isinstance(value, str) else value
    kept = {k: without_tools(v) for k, v in value.items() if k not in (*OWN, MANAGED)}
    if "image" in kept and "args" in kept:
        kept.setdefault("imagePullPolicy", "IfNotPresent")  # the API's default for a tag
    return {k: v for k, v in kept.items() if not (k == "annotations" and v == {})}


def common_name(name: str) -> str:
    name = re.sub(rf"^({NAME})-[0-9a-z]{{10}}$", r"\1", name)
    return re.sub(rf"^{NAME}-(alerts|recording|dashboard-\w+)$", r"vllm-cache-\1", name)


def test_chart_and_kustomization_give_the_same_objects(helm, kubectl):
    config = tomllib.loads((KUSTOMIZE / "exporter.toml").read_text("utf-8"))
    values = {**WITH_OPERATOR, "config": config, "engineService": {"enabled": True}}
    both = kustomized(kubectl, KUSTOMIZE) + kustomized(kubectl, KUSTOMIZE / "engines")
    assert plain(helm.listed(values)) == plain(both)


def test_with_discovery_by_the_api_they_give_the_same_objects_too(helm, kubectl, tmp_path):
    for part in ("deploy/kubernetes", "grafana"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [deploy/kubernetes]\ncomponents: [deploy/kubernetes/discovery]\n"
    )
    config = tomllib.loads((KUSTOMIZE / "discovery" / "exporter.toml").read_text("utf-8"))
    values = {**WITH_OPERATOR, "config": config}
    assert plain(helm.listed(values)) == plain(kustomized(kubectl, tmp_path))


def test_the_package_holds_the_committed_rules_and_dashboards(helm, tmp_path):
    helm.package(tmp_path)
    with tarfile.open(tmp_path / f"{NAME}-{__version__}.tgz") as archive:
        packed = {
            member.name.removeprefix(f"{NAME}/files/"): archive.extractfile(member).read()
            for member in archive
            if "/files/" in member.name
        }
    folders = (ROOT / "deploy/prometheus/rules", ROOT / "grafana/dashboards")
    files = {
        f"{folder.name}/{path.name}": path.read_bytes()
        for folder in folders
        for path in folder.iterdir()
    }
    assert packed == files


def test_the_chart_has_the_version_of_the_exporter():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_every_value_of_the_docs_exists_and_every_value_has_a_schema():
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))

    def check(value, described, at=""):
        for key, inner in value.items():
            assert key in described["properties"], f"values.schema.json lacks {at}{key}"
            if "properties" in described["properties"][key]:
                check(inner, described["properties"][key], f"{at}{key}.")

    check(values, schema)
    missing = schema["properties"].keys() - values.keys()
    assert missing == {"global"}


def test_the_values_in_the_docs_work_and_those_that_are_named_exist(helm):
    page = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    (shown,) = re.findall(r"```yaml\n(image:.*?)```", page, re.DOTALL)
    values = yaml.safe_load(shown)
    assert helm.run("lint", values) == (0, "", "")
    found = helm.objects(values)
    image = found["Deployment", NAME]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.example/vllm-cache-exporter:0.1.0-0123456789ab"
    assert found["Role", NAME]["metadata"]["namespace"] == "vllm"
    shipped = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    (table,) = re.findall(r"\| value \|.*?\n\n", page, re.DOTALL)
    for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        for name in re.findall(r"`([\w.]+)`", row):
            inner = shipped
            for key in name.split("."):
                assert key in inner, f"values.yaml has no {name}"
                inner = inner[key]


def test_a_changed_configuration_makes_a_new_pod(helm):
    def checksum(values) -> str:
        deployment = helm.objects(values)["Deployment", NAME]
        return deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    assert checksum({"config": TARGETS}) == checksum({"config": TARGETS, "service": {"port": 80}})
    assert checksum({"config": TARGETS}) != checksum(
        {"config": TARGETS | {"probe": {"interval_seconds": 30}}}
    )


def test_tls_reaches_the_exporter_the_probes_prometheus_and_the_links(helm, everything, tmp_path):
    data = everything["ConfigMap", NAME]["data"]
    pod = everything["Deployment", NAME]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert "--web.config.file=/etc/vllm-cache-exporter/web.yml" in container["args"]
    tls = yaml.safe_load(data["web.yml"])["tls_server_config"]
    assert tls == {
        key: f"{mounts['web']}/tls.{end}"
        for key, end in (("cert_file", "crt"), ("key_file", "key"))
    }
    assert volumes["web"]["secret"]["secretName"] == "exporter-tls"
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
        assert container[probe]["httpGet"]["httpHeaders"] == [
            {"name": "Authorization", "value": "x"}
        ]
    (endpoint,) = everything["ServiceMonitor", NAME]["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    alerts = json.dumps(everything["PrometheusRule", f"{NAME}-alerts"])
    assert f"https://{NAME}.{NAME}.svc:80/runbooks/" in alerts


def test_a_web_configuration_of_ones_own_is_mounted_with_what_it_names(helm):
    values = {"config": TARGETS, "web": {"configSecret": "web", "scheme": "HTTP"}}
    pod = helm.objects(values)["Deployment", NAME]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "--web.config.file=/etc/vllm-cache-exporter-web/web.yml" in container["args"]
    assert "scheme" not in container["livenessProbe"]["httpGet"]


def test_a_release_of_another_name_and_namespace_refers_only_to_its_own(helm):
    found = helm.objects(
        EVERYTHING | {"serviceMonitor": {"enabled": True}}, name="two", namespace="n2"
    )
    names = {name for _, name in found} - {"vllm-replicas"}
    assert {name.startswith(f"two-{NAME}") for name in names} == {True}
    (subject,) = found["ClusterRoleBinding", f"two-{NAME}"]["subjects"]
    assert subject["namespace"] == "n2"
    selector = found["Service", f"two-{NAME}"]["spec"]["selector"]
    pod = found["Deployment", f"two-{NAME}"]["spec"]["template"]
    assert selector.items() <= pod["metadata"]["labels"].items()
    assert selector["app.kubernetes.io/instance"] == "two"
    assert f"https://two-{NAME}.n2.svc:80/runbooks/" in json.dumps(
        found["PrometheusRule", f"two-{NAME}-alerts"]
    )


@pytest.mark.parametrize(
    ("sources", "roles", "token"),
    [
        ([{}], [("Role", NAME)], True),
        (
            [{"namespaces": ["a", "b"]}, {"name": "k2", "namespaces": ["b"]}],
            [("Role", "a"), ("Role", "b")],
            True,
        ),
        ([{"namespaces": ["*"]}], [("ClusterRole", None)], True),
        ([{"namespaces": ["a"], "api_url": "http://127.0.0.1:8001"}], [], False),
    ],
    ids=["its own namespace", "several namespaces", "every namespace", "another way to the API"],
)
def test_rights_and_token_are_there_only_where_discovery_needs_them(helm, sources, roles, token):
    found = helm.listed({"config": {"discovery": {"kubernetes": sources}}})
    made, bound = (
        [
            (each["kind"].removesuffix("Binding"), each["metadata"].get("namespace"))
            for each in found
            if each["kind"].endswith(kind)
        ]
        for kind in ("Role", "RoleBinding")
    )
    assert made == bound == roles
    (deployment,) = [each for each in found if each["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["automountServiceAccountToken"] is token
    (policy,) = [each for each in found if each["kind"] == "NetworkPolicy"]
    assert len(policy["spec"]["egress"]) == (3 if token else 2)


def test_rules_of_ones_own_take_the_place_of_the_shipped(helm):
    own = 'groups: [{name: mine, rules: [{alert: A, expr: "1", annotations: {runbook_url: "{{ $externalLabels.runbooks }}/a.md"}}]}]'
    values = {
        "config": TARGETS,
        "prometheusRule": {
            "enabled": True,
            "runbooks": "https://git.example/r",
            "files": {"alerts": own},
        },
    }
    found = helm.objects(values)
    (group,) = found["PrometheusRule", f"{NAME}-alerts"]["spec"]["groups"]
    assert group["rules"][0]["annotations"]["runbook_url"] == "https://git.example/r/a.md"
    assert found["PrometheusRule", f"{NAME}-recording"]["spec"]["groups"][0]["name"] != "mine"


def test_the_exporter_reads_the_configuration_of_the_chart(everything, tmp_path):
    file = tmp_path / "exporter.toml"
    file.write_text(everything["ConfigMap", NAME]["data"]["exporter.toml"])
    settings = load(config_file=file, environ={}, dotenv=None).settings
    assert settings.log.format == "json"
    assert settings.probe.interval_seconds == 30
    assert settings.targets[0].url == "http://vllm.vllm.svc:8000"
    assert settings.discovery.kubernetes[0].namespaces == ("*",)


def test_the_notes_say_what_is_measured_and_what_is_missing(helm):
    values = {
        "config": TARGETS
        | {"discovery": {"dns": [{"name": "v", "host": "v.svc"}], "kubernetes": [{}]}}
    }
    code, notes, _ = helm.run("notes", values)
    assert code == 0
    for words in (
        "  a at http://vllm.vllm.svc:8000\n",
        "  every address of v.svc\n",
        f"  the pods with io.vllm-cache-exporter.scrape=true in {NAME}\n",
        f"kubectl -n {NAME} port-forward deployment/{NAME} 9477",
        "--set serviceMonitor.enabled=true",
    ):
        assert words in notes
