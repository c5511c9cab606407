"""The table of firing alerts, asked of promtool with the product's own rules."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from grafana_dashboards import panel

pytestmark = pytest.mark.promtool

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"
SCRAPED = 'up{job="vllm-cache-exporter"}'
WEDGED = 'vllm_probe_cache_wedged{target="a"}'
TURNS = {
    'vllm_probe_turn_tokens_saved{target="a",scenario="s",turn="2"}': "80x30",
    'vllm_probe_turn_prompt_tokens{target="a",scenario="s",turn="2"}': "100x30",
}


def shown(promtool: str, folder: Path, expected: list[str], series: dict[str, str]) -> None:
    """Five minutes of these series, and the rows of the table at their end."""
    (asked,) = panel("overview", "Firing alerts")["targets"]
    question = {
        "expr": asked["expr"].replace("$target", "(a|b)"),
        "eval_time": "5m",
        "exp_samples": [
            {"labels": labels, "value": int("none" not in labels)} for labels in expected
        ],
    }
    samples = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "10s", "input_series": samples, "promql_expr_test": [question]}
    files = [str(RULES / name) for name in ("recording.yml", "alerts.yml")]
    course = {"rule_files": files, "evaluation_interval": "10s", "tests": [test]}
    file = folder / "firing.yml"
    file.write_text(json.dumps(course), encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def row(alert: str, severity: str, *more: str) -> str:
    labels = (f'alertname="{alert}"', f'severity="{severity}"', f'runbook="{alert}"', *more)
    return "{" + ",".join(labels) + "}"


def test_a_firing_alert_has_a_row_with_its_target_and_what_names_its_runbook(promtool, tmp_path):
    wedged = row("VllmCacheWedged", "critical", 'target="a"')
    shown(promtool, tmp_path, [wedged], {SCRAPED: "1x30", WEDGED: "1x30", **TURNS})


def test_a_dead_exporter_has_a_row_although_it_is_no_target(promtool, tmp_path):
    shown(promtool, tmp_path, [row("VllmExporterDown", "critical")], {SCRAPED: "0x30"})


def test_a_target_that_has_failed_has_no_firing_alerts_before_one_fires(promtool, tmp_path):
    counted = 'vllm_probe_ttft_seconds_count{target="a",cache="warm"}'
    shown(promtool, tmp_path, ['{alertname="none"}'], {SCRAPED: "1x30", counted: "9x30"})


def test_an_alert_of_another_target_has_no_row(promtool, tmp_path):
    other = {WEDGED.replace('"a"', '"c"'): "1x30"}
    shown(promtool, tmp_path, ['{alertname="none"}'], {SCRAPED: "1x30", **other, **TURNS})


def test_what_is_only_shown_comes_last(promtool, tmp_path):
    """The table sorts the severities as text, and shows `info` for the last of them."""
    burns = 'ALERTS{alertname="VllmTtftBudgetBurnsFast",alertstate="firing",severity="info"}'
    series = {SCRAPED: "1x30", burns.replace("}", ',target="a"}'): "1x30", WEDGED: "1x30", **TURNS}
    rows = [
        row("VllmCacheWedged", "critical", 'target="a"'),
        row("VllmTtftBudgetBurnsFast", "zinfo", 'target="a"'),
    ]
    shown(promtool, tmp_path, rows, series)
    table = panel("overview", "Firing alerts")
    (words,) = (
        part["value"][0]["options"]
        for override in table["fieldConfig"]["overrides"]
        if override["matcher"]["options"] == "severity"
        for part in override["properties"]
        if part["id"] == "mappings"
    )
    assert sorted(words) == ["critical", "warning", "zinfo"]
    assert words["zinfo"]["text"] == "info"
