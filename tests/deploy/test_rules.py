"""The rules: Prometheus accepts them, each fires by its cause, and all names in them exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from exporter.container.decide.records import Cause, LifecycleState
from exporter.engine.metrics.scrape_reasons import ScrapeReason
from exporter.metrics.families.tables import EXPORTER_FAMILIES, LOOP_FAMILIES, TARGET_FAMILIES
from exporter.model.probe import PauseReason
from exporter.model.reuse import RuleCause
from exporter.model.session import LossCause, Notice
from exporter.web import runbooks

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules"
RULE_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTMANAGER = (ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text("utf-8")
RECORDING = (RULES / "recording.yml").read_text("utf-8")
ALERTS = (RULES / "alerts.yml").read_text("utf-8")
BY_NAME = dict(
    re.findall(r"- alert: (\w+)\n(.*?)(?=\n\s*- alert:|\n\s*- name:|\Z)", ALERTS, re.DOTALL)
)
RUNBOOK_URL = r'runbook_url: "\{\{ \$externalLabels\.runbooks \}\}/([a-z-]+)\.md"'
RECORDED = set(re.findall(r"record: (\S+)", RECORDING))
FAMILIES = (*TARGET_FAMILIES, *EXPORTER_FAMILIES, *LOOP_FAMILIES)
SERIES = {f.name for f in FAMILIES} | {
    f.name + suffix
    for f in FAMILIES
    if f.kind == "histogram"
    for suffix in ("_bucket", "_count", "_sum")
}


def names_in(text: str) -> set[str]:
    """Every name of ours in a text: a recorded series, with its colons, or a metric."""
    found = re.findall(r"(?<![\w-])(?:[a-z_]+:)?vllm_[a-z0-9_]+(?::[a-z0-9_]+)*", text)
    return {name for name in found if not name.endswith("_")}


def test_every_alert_was_read():
    assert len(BY_NAME) == ALERTS.count("- alert:") >= 20


@pytest.mark.promtool
def test_prometheus_accepts_the_configuration(promtool):
    check = subprocess.run(
        [promtool, "check", "config", str(RULES.parent / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert check.returncode == 0, check.stderr
    assert "2 rule files found" in check.stdout + check.stderr


@pytest.mark.promtool
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_each_alert_fires_only_by_its_cause_and_ends_after_the_fix(promtool, path):
    check = subprocess.run(
        [promtool, "test", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert check.returncode == 0, check.stdout + check.stderr


@pytest.mark.promtool
def test_a_rule_test_can_fail(promtool, tmp_path):
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "alerts.yml").write_text(ALERTS.replace("vllm_engine_up == 0", "vllm_engine_up == 2"))
    (rules / "recording.yml").write_text(RECORDING)
    text = (Path(__file__).parent / "rules" / "engine.yml").read_text("utf-8")
    changed = tmp_path / "engine.yml"
    changed.write_text(text.replace("../../../deploy/prometheus/rules", str(rules)))
    check = subprocess.run(
        [promtool, "test", "rules", str(changed)], capture_output=True, check=False, timeout=60
    )
    assert check.returncode != 0


@pytest.mark.parametrize("alert", BY_NAME)
def test_every_alert_fires_in_a_rule_test(alert):
    told = "\n".join(path.read_text("utf-8") for path in RULE_TESTS)
    seen = re.search(rf"labels: '{{alertname=\"{alert}\"[^\n]*value: 1", told)
    assert seen, f"tests/deploy/rules: no rule test sees {alert} fire"


@pytest.mark.parametrize("alert", BY_NAME)
def test_an_alert_has_a_severity_its_texts_and_a_runbook(alert):
    text = BY_NAME[alert]
    assert re.search(r"severity: (critical|warning|info)\b", text)
    assert re.search(r"about: \w+", text)
    assert re.search(r"summary: .{10,}", text)
    assert re.search(r"description: .{20,}", text)
    assert re.search(r"action: .{20,}", text)
    (name,) = re.findall(RUNBOOK_URL, text)
    page = runbooks.sources().get(name)
    assert page, f"docs/runbooks/{name}.md: the runbook of {alert} is missing"
    assert alert in page.splitlines()[0]
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings == ["What it means", "How to check", "What to do", "How to verify"]


def test_every_runbook_has_its_alert():
    used = set(re.findall(RUNBOOK_URL, ALERTS))
    assert set(runbooks.sources()) == used | {runbooks.INDEX}
    index = runbooks.sources()[runbooks.INDEX]
    listed = set(re.findall(r"`(Vllm\w+)`", index))
    assert listed == set(BY_NAME), "docs/runbooks/README.md lists other alerts"


@pytest.mark.parametrize(
    "path",
    [RULES / "alerts.yml", RULES / "recording.yml", *sorted(RUNBOOKS.glob("*.md")), *RULE_TESTS],
    ids=lambda path: path.name,
)
def test_every_name_of_a_metric_exists(path):
    text = path.read_text("utf-8").replace("vllm_key", "")
    assert names_in(text) <= SERIES | RECORDED


def test_links_between_runbooks_lead_somewhere():
    for page in RUNBOOKS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), (page.name, link)


def test_values_of_labels_exist():
    reasons = (*Cause, *PauseReason, *ScrapeReason)
    causes = (*LossCause, *RuleCause)
    by_label = {"notice": Notice, "state": LifecycleState, "reason": reasons, "cause": causes}
    for label, known in by_label.items():
        told = re.findall(rf'\b{label}(?:=|!=|=~)"([^"]+)"', ALERTS + RECORDING)
        assert told
        assert {value for text in told for value in text.split("|")} <= {str(k) for k in known}


@pytest.mark.parametrize("alert", ["VllmProbeHitRatioLow", "VllmCacheEfficiencyLow"])
def test_an_alert_on_losses_counts_no_cause_of_the_reuse_rule(alert):
    for left_out in re.findall(r'cause!~"([^"]+)"', BY_NAME[alert]):
        assert {str(cause) for cause in RuleCause} <= set(left_out.split("|"))
    assert 'cause!~"' in BY_NAME[alert]


def test_alertmanager_names_only_existing_alerts():
    named = re.findall(r'alertname=~?"([^"]+)"', ALERTMANAGER)
    assert named
    assert {name for text in named for name in text.split("|")} <= set(BY_NAME)
    about = set(re.findall(r"about: (\w+)", ALERTS))
    told = re.findall(r'about=~?"([^"]+)"', ALERTMANAGER)
    assert told
    assert {name for text in told for name in text.split("|")} <= about


def test_the_list_of_alerts_has_each_of_them():
    text = (ROOT / "docs" / "alerts.md").read_text("utf-8")
    first, _, _ = text.partition("Alertmanager suppressed these alerts")
    listed = re.findall(r"^\| `(Vllm\w+)`", first, re.MULTILINE)
    assert listed == list(BY_NAME), "docs/alerts.md lists other alerts"


def test_the_test_of_a_healthy_engine_has_every_metric_that_an_alert_reads():
    healthy = (Path(__file__).parent / "rules" / "cache.yml").read_text("utf-8")
    series = names_in(healthy.partition("promql_expr_test")[0])
    read = re.sub(r"(?:description|summary): .*|# .*", "", ALERTS + RECORDING)
    assert names_in(read) - RECORDED <= series
