"""The manifests: valid, confined, and equal to their sources."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from exporter import __version__

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
DASHBOARDS = ROOT / "grafana" / "dashboards"
RULES = ROOT / "deploy" / "prometheus" / "rules"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
NAME = "vllm-cache-exporter"
SELECTOR = {"app.kubernetes.io/name": NAME}
# What the operator's relabelling adds to every series; one of ours with such a label would lose it.
ADDED = {"namespace", "service", "pod", "container", "endpoint", "job", "instance", "node"}


def load_all(text: str) -> list[dict]:
    """Libyaml's loader, which is fast: the dashboards are long."""
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def kustomized(kubectl: str, folder: Path) -> str:
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no field that is going away
    return done.stdout


@pytest.fixture(scope="module")
def text(kubectl):
    return kustomized(kubectl, FOLDER)


@pytest.fixture(scope="module")
def engines(kubectl):
    return kustomized(kubectl, FOLDER / "engines")


@pytest.fixture(scope="module")
def resources(text):
    listed = load_all(text)
    by_name = {(each["kind"], each["metadata"]["name"]): each for each in listed}
    assert len(by_name) == len(listed)
    return by_name


@pytest.fixture(scope="module")
def deployment(resources):
    return resources["Deployment", NAME]["spec"]


@pytest.fixture(scope="module")
def pod(deployment):
    return deployment["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (only,) = pod["containers"]
    return only


@pytest.fixture(scope="module")
def config_map(resources, pod):
    (volume,) = [each for each in pod["volumes"] if each["name"] == "config"]
    return resources["ConfigMap", volume["configMap"]["name"]]["data"]


@pytest.fixture(scope="module")
def held_to_schemas(release_tools):
    def hold(resources: str) -> subprocess.CompletedProcess[str]:
        command = [release_tools / "python", ROOT / "release" / "manifests.py"]
        return subprocess.run(
            [*command, "--kubernetes", "1.28", "1.37"],
            input=resources,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return hold


def test_every_resource_fits_its_schema(held_to_schemas, text, engines):
    (in_docs,) = re.findall(r"```yaml\n(apiVersion:.*?)```", PAGE, re.DOTALL)
    done = held_to_schemas(f"{text}---\n{engines}---\n{in_docs}")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout == f"{len(load_all(text)) + 2} resources, 0 of them wrong\n"


MISTAKES = {
    "readOnlyRootFilesystem: true": "readOnlyRootFileSystem: true",
    "automountServiceAccountToken: false": 'automountServiceAccountToken: "no"',
    "jobLabel:": "joblabel:",
    "interval: 15s": "interval: 15 seconds",
    "- expr: ": "- expression: ",
    "policyTypes:": "policies:",
    "kind: NetworkPolicy": "kind: NetworkPolice",
}


def test_the_schema_check_finds_each_mistake(held_to_schemas, text):
    parts = [part for part in text.split("---\n") if "kind: ConfigMap" not in part]
    broken = []
    for right, wrong in MISTAKES.items():
        part = next(part for part in parts if right in part)
        broken.append(part.replace(right, wrong))
    done = held_to_schemas("---\n".join(broken))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith(f"\n{len(MISTAKES)} resources, {len(MISTAKES)} of them wrong\n")


def test_all_resources_are_in_one_namespace_that_admits_only_restricted_pods(resources):
    namespace = resources["Namespace", NAME]
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    places = {e["metadata"].get("namespace") for e in resources.values() if e is not namespace}
    assert places == {NAME}


def test_the_pod_is_confined(pod, container):
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert {"requests", "limits"} == container["resources"].keys()
    assert {key for each in pod["volumes"] for key in each} - {"name"} == {
        "configMap",
        "secret",
        "emptyDir",
    }


def test_the_pod_has_no_token_of_the_cluster(resources, pod):
    assert pod["automountServiceAccountToken"] is False
    account = resources["ServiceAccount", pod["serviceAccountName"]]
    assert account["automountServiceAccountToken"] is False
    assert not any(kind.endswith("RoleBinding") for kind, _ in resources)


def test_services_policies_and_monitors_select_the_pod(resources, deployment):
    pod_labels = deployment["template"]["metadata"]["labels"]
    assert pod_labels == deployment["selector"]["matchLabels"] == SELECTOR
    service = resources["Service", NAME]
    monitor = resources["ServiceMonitor", NAME]["spec"]
    assert service["spec"]["selector"] == SELECTOR
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"] == SELECTOR
    assert resources["NetworkPolicy", NAME]["spec"]["podSelector"]["matchLabels"] == SELECTOR


def test_one_port_has_one_name(resources, container):
    assert container["ports"] == [{"name": "http", "containerPort": 9477}]
    (service_port,) = resources["Service", NAME]["spec"]["ports"]
    (endpoint,) = resources["ServiceMonitor", NAME]["spec"]["endpoints"]
    (ingress,) = resources["NetworkPolicy", NAME]["spec"]["ingress"]
    probes = [container[each]["httpGet"]["port"] for each in ("livenessProbe", "readinessProbe")]
    assert service_port["targetPort"] == service_port["name"] == endpoint["port"] == "http"
    assert [each["port"] for each in ingress["ports"]] == ["http"]
    assert probes == ["http", "http"]


def test_the_network_policy_allows_prometheus_in_and_dns_and_engines_out(resources, config_map):
    policy = resources["NetworkPolicy", NAME]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = policy["ingress"]
    (peer,) = ingress["from"]
    assert peer.keys() == {"namespaceSelector"}
    assert peer["namespaceSelector"]["matchLabels"]
    names, engine = policy["egress"]
    assert {(each["protocol"], each["port"]) for each in names["ports"]} == {
        ("UDP", 53),
        ("TCP", 53),
    }
    (source,) = tomllib.loads(config_map["exporter.toml"])["discovery"]["dns"]
    assert engine["ports"] == [{"protocol": "TCP", "port": source["port"]}]


def test_the_dns_name_is_that_of_the_headless_service(resources, engines, config_map):
    service = yaml.safe_load(engines)
    (source,) = tomllib.loads(config_map["exporter.toml"])["discovery"]["dns"]
    place = service["metadata"]["namespace"]
    assert source["host"] == f"{service['metadata']['name']}.{place}.svc"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert [each["port"] for each in service["spec"]["ports"]] == [source["port"]]
    (_, engine) = resources["NetworkPolicy", NAME]["spec"]["egress"]
    (peer,) = engine["to"]
    assert peer["podSelector"]["matchLabels"] == service["spec"]["selector"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": place}


def test_the_exporter_takes_its_configuration_and_the_key_from_the_secret(
    container, config_map, tmp_path
):
    options = dict(each.removeprefix("--").split("=") for each in container["args"][1:])
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert container["args"][0] == "run"
    assert options["config"] == f"{mounts['config']}/exporter.toml"
    assert options["secrets-dir"] == mounts["secrets"]
    for name, content in config_map.items():
        (tmp_path / name).write_text(content)
    secrets = mounted_secret(tmp_path, "VLLM_EXPORTER_DISCOVERY__DNS__0__API_KEY", "sk-canary")
    command = [sys.executable, "-m", "exporter", "config", "--json", "--secrets-dir", secrets]
    done = subprocess.run(
        [*command, "--config", tmp_path / "exporter.toml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"VLLM_EXPORTER_LISTEN": "0.0.0.0:9477"},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "sk-canary" not in done.stdout
    sources = json.loads(done.stdout)["sources"]
    assert sources["discovery.dns[0].api_key"].startswith("secrets file ")


def mounted_secret(folder: Path, key: str, value: str) -> Path:
    """As the kubelet mounts it: the key is a link into a folder that is replaced as a whole."""
    secrets = folder / "secrets"
    (secrets / "..2026_01_01").mkdir(parents=True)
    (secrets / "..2026_01_01" / key).write_text(value)
    (secrets / "..data").symlink_to("..2026_01_01")
    (secrets / key).symlink_to(f"..data/{key}")
    return secrets


def test_the_kustomization_in_the_docs_works(kubectl, held_to_schemas, tmp_path):
    (shown,) = re.findall(r"```yaml\n(resources:.*?)```", PAGE, re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(shown)
    for part in ("deploy/kubernetes", "grafana"):
        shutil.copytree(ROOT / part, tmp_path / NAME / part)
    own = kustomized(kubectl, tmp_path)
    assert held_to_schemas(own).returncode == 0
    listed = load_all(own)
    (deployment,) = [each for each in listed if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    tag = rf"registry\.example/{NAME}:{re.escape(__version__)}-[0-9a-f]{{12}}"
    assert re.fullmatch(tag, container["image"])
    patched = [e["kind"] for e in listed if "release" in e["metadata"].get("labels", {})]
    assert sorted(patched) == ["PrometheusRule", "PrometheusRule", "ServiceMonitor"]


def test_the_image_has_the_tag_of_this_version(container):
    assert container["image"] == f"{NAME}:{__version__}"


def test_each_dashboard_is_a_config_map_with_grafana_s_label(resources):
    found = {}
    for (kind, _), each in resources.items():
        if kind == "ConfigMap" and "grafana_dashboard" in each["metadata"].get("labels", {}):
            found |= each["data"]
    files = {f"vllm-cache-{path.name}": path.read_text("utf-8") for path in DASHBOARDS.iterdir()}
    assert found == files


def test_the_committed_rules_are_current():
    written = runpy.run_path(str(FOLDER / "build.py"))["resources"]()
    on_disk = {path.name: path.read_text("utf-8") for path in (FOLDER / "rules").iterdir()}
    assert on_disk == written, "run: python deploy/kubernetes/build.py"


@pytest.mark.parametrize("path", sorted(RULES.glob("*.yml")), ids=lambda path: path.stem)
def test_the_cluster_has_the_rules_of_compose_with_links_to_the_service(resources, path):
    spec = resources["PrometheusRule", f"vllm-cache-{path.stem}"]["spec"]
    source = path.read_text("utf-8")
    assert "$externalLabels" not in json.dumps(spec)
    runbooks = f"http://{NAME}.{NAME}.svc:9477/runbooks"
    assert spec == yaml.safe_load(source.replace("{{ $externalLabels.runbooks }}", runbooks))


@pytest.mark.promtool
@pytest.mark.parametrize("name", ["alerts", "recording"])
def test_prometheus_accepts_the_rules(resources, promtool, name, tmp_path):
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(resources["PrometheusRule", f"vllm-cache-{name}"]["spec"]))
    check = subprocess.run(
        [promtool, "check", "rules", rules], capture_output=True, text=True, check=False, timeout=60
    )
    assert check.returncode == 0, check.stderr


def test_the_alerts_use_the_job_name_of_the_monitor(resources):
    monitor = resources["ServiceMonitor", NAME]["spec"]
    job = resources["Service", NAME]["metadata"]["labels"][monitor["jobLabel"]]
    alerts = json.dumps(resources["PrometheusRule", "vllm-cache-alerts"])
    assert set(re.findall(r'job=\\"([^"\\]+)', alerts)) == {job}


def test_no_label_of_ours_collides_with_one_of_the_operator():
    tables = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `vllm_\w+` \| \w+ \| ([^|]*) \|", tables, re.MULTILINE)
    ours = {label for row in rows for label in re.findall(r"`(\w+)`", row)}
    assert {"target", "turn"} <= ours
    assert not ours & ADDED
