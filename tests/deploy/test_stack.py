"""The whole stack on a real Docker Engine: up, measuring, alerting, mended, restarted, and gone.

The tests of this file share one stack and run in their order: each leaves it well.
"""

from __future__ import annotations

import urllib.request

import pytest
from deploy_stack import ROOT, Stack, run

pytestmark = pytest.mark.docker

UP_SECONDS = 90  # what is promised, with the images present


@pytest.fixture(scope="module")
def stack(image, stack_images, free_ports):
    made = Stack(image, free_ports(5))
    try:
        made.up_seconds = made.up()
        yield made
    finally:
        made.remove()
    assert made.left_behind() == []


def test_the_stack_is_healthy_in_time(stack):
    states = stack.compose("ps", "--format", "{{.Service}} {{.Health}}").splitlines()
    assert len(states) == 6
    assert {state.split()[1] for state in states} == {"healthy"}
    assert stack.up_seconds < UP_SECONDS


def test_every_target_of_prometheus_is_up_including_the_engine(stack):
    def all_up():
        found = stack.ask("PROMETHEUS", "/api/v1/targets")["data"]["activeTargets"]
        up = {each["labels"]["job"] for each in found if each["health"] == "up"}
        return up if len(up) == len(found) else None

    assert stack.until("every target is up", all_up) == {
        "vllm-cache-exporter",
        "vllm",
        "prometheus",
        "alertmanager",
    }
    assert stack.until(
        "a session's turns are in Prometheus",
        lambda: stack.value('count by (target) (vllm_probe_turn_hit_ratio{scenario!=""})'),
    )
    tokens = "sum by (target) (vllm:prompt_tokens_total)"
    stack.until("the engine's own count grew", lambda: (stack.value(tokens) or 0) > 0)


def test_the_recording_rules_have_values(stack):
    names = (
        "target:vllm_probe_last_session_hit:ratio",
        "target:vllm_probe_hit_tokens:ratio_rate10m",
        "target:vllm_probe_efficiency:ratio_rate10m",
        "target:vllm_engine_hit_tokens:ratio_rate5m",
        "target:vllm_probe_ttft_slow:ratio_rate5m",
    )
    for name in names:
        value = stack.until(f"{name} has a value", lambda name=name: stack.query(name) or None)
        assert 0 <= value[stack.engine] <= 1
    assert stack.value("target:vllm_probe_last_session_hit:ratio") > 0.8
    groups = stack.ask("PROMETHEUS", "/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []


def test_no_alert_fires_while_everything_is_healthy(stack):
    assert stack.ask("PROMETHEUS", "/api/v1/alerts")["data"]["alerts"] == []
    assert stack.alerts() == set()


def test_a_fault_reaches_the_receiver_and_the_alert_ends_after_the_engine_s_restart(stack):
    stack.ask("ENGINE", "/faults", {"fault": "ignore_salts"})
    stack.until("the leak is in Alertmanager", lambda: "VllmCacheIsolationLeak" in stack.alerts())

    def told(status):
        for line in stack.notified():
            if line["alert"] == "VllmCacheIsolationLeak" and line["status"] == status:
                return line
        return None

    line = stack.until("the receiver is told", lambda: told("firing"))
    assert line["target"] == stack.engine
    assert line["severity"] == "warning"
    assert line["summary"] == f"{stack.engine}: cache_salt does not isolate requests"
    runbook = f"http://localhost:{stack.ports['PROMETHEUS']}/user/cache-isolation-leak.md"
    assert line["runbook"] == runbook
    with urllib.request.urlopen(runbook, timeout=10) as page:
        assert page.headers.get_content_maintype() == "text"  # a browser shows it
        assert page.read() == (ROOT / "docs/runbooks/cache-isolation-leak.md").read_bytes()
    # The exporter remembers ignored salts until the engine restarts, here without the fault.
    before = stack.value("vllm_probe_sessions_total")
    run("docker", "kill", stack.container)
    stack.until(
        "the restart is counted",
        lambda: stack.value('vllm_container_restarts_total{reason="killed"}') == 1,
    )
    stack.until(
        "it is ready again", lambda: stack.value('vllm_container_state{state="ready"}') == 1
    )
    stack.until("sessions go on", lambda: (stack.value("vllm_probe_sessions_total") or 0) > before)
    stack.until("the alert ends", lambda: "VllmCacheIsolationLeak" not in stack.alerts())


def test_nothing_is_lost_in_prometheus_when_everything_is_restarted(stack):
    then = stack.query("timestamp(vllm_probe_sessions_total)")[stack.engine]
    at_that_time = f"vllm_probe_sessions_total @ {then}"
    before = stack.value(at_that_time)
    assert before > 0
    stack.compose("restart")
    stack.until("it answers the same", lambda: stack.value(at_that_time) == before)
    stack.until(
        "the new exporter's counter is scraped",
        lambda: stack.value(f"timestamp(vllm_probe_sessions_total) > {then}"),
    )
    # Prometheus sees a counter that starts again as a reset, not as a negative rate.
    assert stack.value("increase(vllm_probe_sessions_total[5m])") > 0


def test_down_removes_everything_including_the_engine(stack):
    assert run("docker", "ps", "-q", "--filter", f"name={stack.container}")
    stack.compose("down", "-v")
    assert stack.left_behind() == []
