"""Dashboards, provisioning, compose file and runbooks agree with each other."""

from __future__ import annotations

import re
from pathlib import Path

from grafana_dashboards import MODELS, panel, strings

from exporter.web import runbooks
from grafana.names import DATASOURCE_UID, EXPORTER_URL, RUNBOOKS_URL

ROOT = Path(__file__).parents[2]
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"


def provisioned(path: str) -> dict[str, str]:
    """The value of each key of a provisioning file. The file nests keys, but repeats none."""
    text = (PROVISIONING / path).read_text(encoding="utf-8")
    found = re.findall(r"^[ -]*(\w+): +([^#\n]+?) *(?:#.*)?$", text, re.MULTILINE)
    assert len(found) == len(dict(found)), "a key that repeats needs a better reader here"
    return dict(found)


def test_the_provisioned_data_source_is_the_default_of_the_dashboards():
    source = provisioned("datasources/prometheus.yml")
    assert source["uid"] == DATASOURCE_UID
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"


def test_links_to_a_runbook_lead_to_a_page_that_exists():
    urls = {t for model in MODELS.values() for t in strings(model) if "/runbooks/" in t}
    assert f"{RUNBOOKS_URL}/" in urls
    pages = urls - {f"{RUNBOOKS_URL}/", f"{RUNBOOKS_URL}/${{__value.text}}"}
    assert pages
    for url in pages:
        base, _, page = url.rpartition("/")
        assert base == RUNBOOKS_URL
        assert page in runbooks.sources(), url


def test_each_firing_alert_links_to_its_own_runbook():
    rules = (ROOT / "deploy" / "prometheus" / "rules" / "alerts.yml").read_text(encoding="utf-8")
    table = panel("overview", "Firing alerts")["fieldConfig"]["overrides"]
    (runbook,) = (one["properties"] for one in table if one["matcher"]["options"] == "runbook")
    told = {part["id"]: part["value"] for part in runbook}
    (words,) = told["mappings"]
    pages = {alert: word["text"] for alert, word in words["options"].items()}
    assert list(pages) == sorted(re.findall(r"- alert: (\w+)", rules))
    for alert, page in pages.items():
        assert page in runbooks.sources()
        assert f"/{page}.md" in rules.partition(f"- alert: {alert}\n")[2].partition("- alert: ")[0]
    assert told["links"][0]["url"] == f"{RUNBOOKS_URL}/${{__value.text}}"


def test_the_runbook_links_use_the_port_that_compose_publishes():
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    (port,) = re.findall(r'"127\.0\.0\.1:\$\{EXPORTER_PORT:-(\d+)\}:9477"', compose)
    assert f"http://127.0.0.1:{port}" == EXPORTER_URL
    assert RUNBOOKS_URL == "${exporter}/runbooks"
    for model in MODELS.values():
        (exporter,) = (v for v in model["templating"]["list"] if v["name"] == "exporter")
        assert exporter["query"] == exporter["current"]["value"] == EXPORTER_URL


def test_grafana_s_interval_is_the_scrape_interval():
    prometheus = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    (interval,) = re.findall(r"^  scrape_interval: (\w+)", prometheus, re.MULTILINE)
    assert provisioned("datasources/prometheus.yml")["timeInterval"] == interval


def test_the_provisioned_folder_is_the_one_that_compose_mounts():
    provider = provisioned("dashboards/vllm-cache.yml")
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert f"./grafana/dashboards:{provider['path']}:ro" in compose
    assert "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro" in compose


def test_grafana_begins_with_the_overview():
    provider = provisioned("dashboards/vllm-cache.yml")
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    home = f"GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: {provider['path']}/overview.json"
    assert home in compose
