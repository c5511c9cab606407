"""Each alert fires past its threshold and ends after the fix, with the shipped settings and others."""

from __future__ import annotations

import json
import subprocess

import pytest
from alert_courses import COURSES
from other_settings import OTHERS

from mixin.outputs import outputs
from mixin.settings import read

pytestmark = pytest.mark.promtool


@pytest.fixture(params=["shipped", "others"])
def settings(request, tmp_path):
    if request.param == "shipped":
        return read()
    path = tmp_path / "others.toml"
    path.write_text(OTHERS, "utf-8")
    return read(path)


def check(promtool, folder, settings, tests):
    """Run rule tests against the rules of these settings."""
    for path, text in outputs(settings).items():
        if path.suffix == ".yml":
            (folder / path.name).write_text(text, "utf-8")
    told = {
        "rule_files": ["alerts.yml", "recording.yml"],
        "evaluation_interval": "1m",
        "tests": tests,
    }
    (folder / "test.yml").write_text(json.dumps(told), "utf-8")  # JSON is YAML, too
    return subprocess.run(
        [promtool, "test", "rules", "test.yml"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_each_alert_fires_past_its_threshold_and_ends_after_the_fix(promtool, tmp_path, settings):
    tests = [make(settings).as_test(alert) for alert, make in COURSES.items()]
    done = check(promtool, tmp_path, settings, tests)
    assert done.returncode == 0, (done.stdout + done.stderr)[:8000]


def test_every_alert_has_a_course():
    assert set(COURSES) == set(read().alerts)


def test_a_course_of_other_settings_does_not_pass_with_the_shipped_rules(promtool, tmp_path):
    """So the courses follow the settings."""
    path = tmp_path / "others.toml"
    path.write_text(OTHERS, "utf-8")
    for alert in ("VllmHitRatioLow", "VllmKvCacheSaturated", "VllmCrashLoop", "VllmProbeStale"):
        test = COURSES[alert](read(path)).as_test(alert)
        assert check(promtool, tmp_path, read(), [test]).returncode != 0, alert
