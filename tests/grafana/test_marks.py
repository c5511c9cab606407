"""The marks at restarts, asked of promtool: one for each restart, whenever it comes in a minute."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from grafana_dashboards import MODELS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.promtool

SCRAPES = 96  # in sixteen minutes, one every ten seconds
MARKS = {mark["name"]: mark["expr"] for mark in MODELS["overview"]["annotations"]["list"]}
DOCKER = ('vllm_container_docker_up{target="a"}', f"1x{SCRAPES}")
CONTAINER = 'vllm_container_restarts_total{target="a",reason="exited"}'
ENGINE = 'vllm_engine_restarts_total{target="a"}'

at_each_phase = pytest.mark.parametrize("at", range(24, 30))
each_step = pytest.mark.parametrize("step", ["1m", "5m"])  # Grafana's at six hours is longer


def grows(at: int, before: str = "0") -> str:
    """The samples of a counter that is 1 from one scrape on. `_` is no sample."""
    return " ".join([before] * at + ["1"] * (SCRAPES - at))


def check(
    promtool: str,
    folder: Path,
    mark: str,
    marks: int,
    *series: tuple[str, str],
    step: str = "1m",
) -> None:
    """Asks at each step, as Grafana does, and expects so many marks in all.

    A rule does the asking: its interval is the step of the annotations.
    """
    asked = MARKS[mark].replace("$target", ".*").replace("$__interval", step)
    rule = {"record": "marks", "expr": f"count({asked})"}
    rules = {"groups": [{"name": "marks", "interval": step, "rules": [rule]}]}
    (folder / "rules.yml").write_text(json.dumps(rules))
    total = {
        "expr": "sum(sum_over_time(marks[15m])) or vector(0)",
        "eval_time": "15m",
        "exp_samples": [{"labels": "{}", "value": marks}],
    }
    test = {
        "interval": "10s",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [total],
    }
    file = folder / "marks.yml"
    file.write_text(
        json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": step, "tests": [test]})
    )
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@each_step
@at_each_phase
def test_a_restart_has_one_mark_at_each_phase_of_the_minute(promtool, tmp_path, at, step):
    check(promtool, tmp_path, "Container restarts", 1, DOCKER, (CONTAINER, grows(at)), step=step)
    check(promtool, tmp_path, "Engine restarts", 1, (ENGINE, grows(at)), step=step)


@at_each_phase
def test_the_first_restart_for_a_reason_has_a_mark_too(promtool, tmp_path, at):
    check(promtool, tmp_path, "Container restarts", 1, DOCKER, (CONTAINER, grows(at, before="_")))


def test_what_restarted_before_prometheus_looked_has_no_mark(promtool, tmp_path):
    late = (DOCKER[0], grows(30, before="_"))
    check(promtool, tmp_path, "Container restarts", 0, late, (CONTAINER, grows(30, before="_")))


@each_step
@at_each_phase
def test_an_engine_that_restarts_with_its_container_has_the_mark_of_the_container_only(
    promtool, tmp_path, at, step
):
    container, engine = (CONTAINER, grows(at, before="_")), (ENGINE, grows(at + 12))
    check(promtool, tmp_path, "Container restarts", 1, DOCKER, container, engine, step=step)
    check(promtool, tmp_path, "Engine restarts", 0, DOCKER, container, engine, step=step)
