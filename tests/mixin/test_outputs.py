"""What is written from the settings: the committed files, and others after a change."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from other_settings import OTHERS

from mixin.outputs import ROOT, outputs
from mixin.settings import CHOSEN, read

RULES = Path("deploy/prometheus/rules")
DASHBOARDS = Path("grafana/dashboards")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Everything that the command writes for changed settings."""
    folder = tmp_path_factory.mktemp("mixin")
    (folder / "mine.toml").write_text(OTHERS, "utf-8")
    for module in ("mixin", "grafana"):
        subprocess.run(
            [sys.executable, "-m", module, "--out", str(folder / "out")],
            env={**os.environ, CHOSEN: str(folder / "mine.toml")},
            cwd=ROOT,
            check=True,
            timeout=120,
        )
    return folder / "out"


def test_the_committed_files_are_what_the_committed_settings_give():
    for path, text in outputs(read()).items():
        assert (ROOT / path).read_text("utf-8") == text, f"{path}: run `make mixin` and commit it"


def test_the_make_target_runs_both_commands_with_the_file_and_the_folder():
    told = subprocess.run(
        ["make", "--dry-run", "mixin", "SETTINGS=a.toml", "OUT=b"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    for module in ("mixin", "grafana"):
        assert re.search(rf"^{CHOSEN}=a\.toml \S+python -m {module} --out b$", told, re.MULTILINE)


def test_ones_own_settings_do_not_go_over_the_shipped_files():
    told = subprocess.run(
        ["make", "--dry-run", "mixin", "SETTINGS=a.toml"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert told.count("--out dist/mixin") == 2


@pytest.mark.parametrize("module", ["mixin", "grafana"])
def test_a_mistake_ends_the_command_with_one_line_and_writes_nothing(module, tmp_path):
    (tmp_path / "mine.toml").write_text("[kv_cache]\nfull = 2\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", module, "--out", str(tmp_path / "out")],
        env={**os.environ, CHOSEN: str(tmp_path / "mine.toml")},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path}/mine.toml: kv_cache.full is 2: it must be less than 1\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.promtool
def test_prometheus_accepts_the_rules_of_other_settings(mine, promtool):
    files = sorted(map(str, (mine / RULES).glob("*.yml")))
    check = subprocess.run(
        [promtool, "check", "rules", *files],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert check.returncode == 0, check.stdout + check.stderr
    assert check.stdout.count("SUCCESS") == len(files) == 2


def test_a_changed_threshold_changes_rule_dashboard_and_runbook_together(mine):
    alerts = (mine / RULES / "alerts.yml").read_text("utf-8")
    assert '"heartbeat"} < 0.37\n' in alerts
    assert "has been below 37 %" in alerts
    lines = [
        (one["title"], [step["value"] for step in one["fieldConfig"]["defaults"]["thresholds"]["steps"]])
        for path in (mine / DASHBOARDS).glob("*.json")
        for one in json.loads(path.read_text("utf-8"))["panels"]
        if one["title"].startswith("Hit ratio") and one["type"] == "timeseries"
        and "thresholds" in one["fieldConfig"]["defaults"]
    ]  # fmt: skip
    assert len(lines) >= 4
    assert {tuple(values) for _, values in lines} == {(None, 0.37, 0.63)}
    assert "less than 37 %" in (mine / "docs/runbooks/hit-ratio-low.md").read_text("utf-8")
    assert "within\n2.5 s" in (mine / "docs/runbooks/ttft-budget-burn.md").read_text("utf-8")
    recording = (mine / RULES / "recording.yml").read_text("utf-8")
    assert re.findall(r'le="([^"]+)"', recording) == ["2.5"] * 4 + ["7.5"] * 4
    assert "record: target:vllm_probe_ttft_slow:ratio_rate7m" in recording


def test_severity_and_duration_of_each_alert_are_those_of_the_settings(mine):
    rules = yaml.safe_load((mine / RULES / "alerts.yml").read_text("utf-8"))
    told = {
        rule["alert"]: (rule["labels"]["severity"], rule["for"])
        for group in rules["groups"]
        for rule in group["rules"]
    }
    assert told == {
        name: ("info", f"{number}s") for number, name in enumerate(read().alerts, start=61)
    }


def test_every_rule_keeps_the_labels_of_the_settings(mine):
    """So the alerts have them, and a filter of the dashboards finds the recorded series."""
    for folder, kept in ((ROOT, "target, team, cluster, gpu"), (mine, "target, owner, zone")):
        for name in ("alerts", "recording"):
            text = (folder / RULES / f"{name}.yml").read_text("utf-8")
            groups = re.findall(r"\bby \((target[^)]*)\)", text)
            assert groups
            assert all(group.startswith(kept) for group in groups), groups


def leaves(model, others, path=()):
    """The path of each value, and the value of `others` at that path."""
    for name in type(model).model_fields:
        here, there = getattr(model, name), getattr(others, name)
        if hasattr(here, "model_fields_set"):
            yield from leaves(here, there, (*path, name))
        elif name != "alerts":
            yield (*path, name), there


def with_value(model, path, value):
    name, *rest = path
    changed = with_value(getattr(model, name), rest, value) if rest else value
    return model.model_copy(update={name: changed})


def test_every_setting_changes_what_is_written(tmp_path):
    (tmp_path / "mine.toml").write_text(OTHERS, "utf-8")
    shipped, others = read(), read(tmp_path / "mine.toml")
    before = outputs(shipped)
    unused = [
        ".".join(path)
        for path, value in leaves(shipped, others)
        if outputs(with_value(shipped, path, value)) == before
    ]
    assert unused == ["efficiency.good", "links.exporter"]  # these are of dashboards only


def test_the_settings_of_dashboards_alone_change_them(mine):
    text = (mine / DASHBOARDS / "fleet.json").read_text("utf-8")
    assert "https://exporter.example.org" in text
    assert "0.88" in text


# The values of the shipped settings as they stand in rules, sentences and panels.
SHIPPED_WORDS = re.compile(
    r"(?<![\d.])(?:0\.4|40 %|0\.8|80 %|0\.95|95 %|14\.4|72 %|5 % of|0\.5 s|900 s|20 ms|0\.02|1\.5 times"
    r"|[<>]=? 0\.5|0\.5 \*|less than half|50 %|above 20|more than 20|three of its|> 2\.5|\[1d\]|last day"
    r"|three times or more|> (?:12|20|60|300|900)|3 \* vllm|6 \*|1\.5 \*|\* 0\.05|le=.0\.5|\|300"
    r"|up to five minutes|by five minutes|than five minutes|session by (?:more than )?15 minutes"
    r"|used up in (?:two|five) days)(?!\d|\.\d)"
)
NO_COPIES = (
    "about 0.4 of it is attainable",  # of a heartbeat: a fact about its prompts
    "about 40 % of the second one",  # the same
    "[30m])) > 20",  # the least turns of a median
)


def test_no_other_place_has_a_copy_of_a_threshold(mine):
    """Written with other settings, no rule, panel or page still says a shipped value."""
    for path in sorted(each for each in mine.rglob("*.*") if each.is_file()):
        text = path.read_text("utf-8")
        if path.suffix == ".json":  # sizes on Grafana's grid and opacities are no thresholds
            panels = json.loads(text)["panels"]
            text = json.dumps(
                [(p.get("description"), p.get("fieldConfig", {}).get("defaults", {}).get("thresholds")) for p in panels],
                indent=1,
            )  # fmt: skip
        for line in text.splitlines():
            if not any(fact in line for fact in NO_COPIES):
                assert not SHIPPED_WORDS.search(line), f"{path.relative_to(mine)}: {line}"


def test_the_search_for_copies_finds_those_of_the_shipped_files():
    for path in ("deploy/prometheus/rules/alerts.yml", "docs/runbooks/hit-ratio-low.md"):
        assert SHIPPED_WORDS.search((ROOT / path).read_text("utf-8"))
