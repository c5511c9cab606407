"""The metrics reference is what the tables say, and the tables are what the contract says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from exporter.metrics import families
from exporter.metrics.families.tables import (
    EXPORTER_FAMILIES,
    LOOP_FAMILIES,
    ON_DEMAND_FAMILIES,
    TARGET_FAMILIES,
)
from exporter.metrics.reference import RATIOS, render
from exporter.model.reuse import ReuseRule

FOLDER = Path(families.__file__).parent
REFERENCE = Path(__file__).parents[2] / "docs" / "metrics.md"
FAMILIES = (*TARGET_FAMILIES, *ON_DEMAND_FAMILIES, *EXPORTER_FAMILIES, *LOOP_FAMILIES)


def test_the_reference_is_current():
    assert REFERENCE.read_text("utf-8") == render(), (
        "run: python -m exporter.metrics.reference > docs/metrics.md"
    )


def test_the_queries_of_the_reference_use_names_that_exist():
    names = {family.name for family in FAMILIES}
    for query in RATIOS.values():
        assert set(re.findall(r"vllm_\w+", query)) <= names


def test_every_family_of_the_folder_is_in_a_table_once():
    described = [
        each.args[0].value
        for file in FOLDER.glob("*.py")
        for each in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(each, ast.Call)
        and isinstance(each.func, ast.Name)
        and each.func.id in {"gauge", "counter", "histogram"}
    ]
    missing = "exporter/metrics/families/tables.py does not list its table"
    assert sorted(described) == sorted(family.name for family in FAMILIES), missing


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_follows_the_naming_rules(family):
    assert re.fullmatch(r"vllm_(probe|engine|container|exporter)_[a-z_]+[a-z]", family.name)
    assert (family.kind == "counter") == family.name.endswith("_total")
    assert family.help.endswith(".")
    assert len(set(family.reader.labels)) == len(family.reader.labels)
    assert "target" not in family.reader.labels


def test_the_promised_names_exist():
    promised = {
        "probe": (
            "up sessions_total session_failures_total last_success_timestamp_seconds "
            "turn_hit_ratio turn_tokens_saved turn_ttft_seconds turn_latency_seconds "
            "turn_prompt_tokens turn_completion_tokens turn_ideal_hit_ratio "
            "turn_attainable_hit_ratio turn_efficiency_ratio prompt_tokens_total "
            "cached_tokens_total ideal_cached_tokens_total attainable_cached_tokens_total "
            "completion_tokens_total lost_tokens_total ttft_seconds "
            "inter_token_seconds prefix_stable cache_wedged isolation_leaks_total"
        ),
        "engine": (
            "up scrape_duration_seconds prefix_cache_queried_tokens_total "
            "prefix_cache_hit_tokens_total prefix_cache_hit_ratio tokens_saved_total "
            "external_queried_tokens_total external_hit_tokens_total cached_tokens_total "
            "effective_hit_ratio users_effective_hit_ratio users_external_hit_tokens_total "
            "kv_cache_usage_ratio requests_running requests_waiting preemptions_total info "
            "reuse_rule "
            "users_prefix_cache_queried_tokens_total users_prefix_cache_hit_tokens_total "
            "users_prefix_cache_hit_ratio users_tokens_saved_total "
            "users_prefill_seconds_saved_total users_prefill_cost_saved_total "
            "users_prefill_energy_saved_joules_total"
        ),
        "container": (
            "state restarts_total oom_kills_total start_failures_total model_loads_total "
            "startup_seconds exit_code health_failures_total config_drift info"
        ),
        "exporter": "build_info loop_failures_total loop_last_run_timestamp_seconds",
    }
    names = {family.name for family in FAMILIES}
    for room, words in promised.items():
        for word in words.split():
            assert f"vllm_{room}_{word}" in names


def test_labels_are_those_of_the_contract():
    labels = {family.name: family.reader.labels for family in FAMILIES}
    assert labels["vllm_probe_turn_hit_ratio"] == ("scenario", "turn")
    assert labels["vllm_probe_session_failures_total"] == ("reason",)
    assert labels["vllm_probe_lost_tokens_total"] == ("cause",)
    assert labels["vllm_probe_prefix_stable"] == ("scenario",)
    assert labels["vllm_probe_ttft_seconds"] == ("cache",)
    assert labels["vllm_engine_prefix_cache_hit_ratio"] == ("window",)
    assert labels["vllm_engine_effective_hit_ratio"] == ("window",)
    assert labels["vllm_engine_cached_tokens_total"] == ("source",)
    assert labels["vllm_engine_info"][:2] == ("version", "model")
    assert labels["vllm_engine_reuse_rule"] == tuple(ReuseRule.__dataclass_fields__)
    assert labels["vllm_exporter_loop_failures_total"] == ("loop",)
