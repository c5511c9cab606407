"""`--api` of `probe`, `check` and `compare`, and the setting that it sets."""

from __future__ import annotations

import pytest
from commands import AT_ONCE, engine_beside, run_command

from exporter.engine.wire.surfaces.named import SURFACES
from exporter.simulator.engine_kinds.table import settings_like

OTHERS = [name for name in SURFACES if name != "chat_completions"]
TURN = ("prompt_tokens", "cached_tokens", "attainable_cached_tokens", "efficiency_ratio")


@pytest.mark.parametrize("api", OTHERS)
def test_probe_has_the_same_numbers_over_each_api(api):
    with engine_beside() as engine:
        plain = run_command("probe", engine.url, "--json")
        other = run_command("probe", engine.url, "--json", "--api", api)
    assert (plain.code, other.code) == (0, 0)
    assert (plain.json["api"], other.json["api"]) == ("chat_completions", api)
    assert [[turn[key] for key in TURN] for turn in other.json["turns"]] == [
        [turn[key] for key in TURN] for turn in plain.json["turns"]
    ]
    assert (other.json["hit_ratio"], other.json["efficiency_ratio"]) == (
        plain.json["hit_ratio"],
        1.0,
    )


@pytest.mark.parametrize("api", OTHERS)
def test_check_of_an_old_vllm_says_that_it_lacks_the_api_and_how_to_go_on(api):
    with engine_beside(settings_like("vllm-0.9.2", AT_ONCE)) as engine:
        other = run_command("check", engine.url, "--json", "--api", api)
        plain = run_command("check", engine.url, "--json")
    tests = {test["name"]: test for test in other.json["tests"]}
    assert other.code == 1
    assert f"does not serve {SURFACES[api].path}" in tests["second_turn"]["evidence"]
    assert "Set it to chat_completions" in tests["second_turn"]["remedy"]
    assert plain.code == 0


def test_the_table_and_the_lines_of_csv_say_the_api():
    with engine_beside() as engine:
        table = run_command("probe", engine.url, "--api", "messages")
        plain = run_command("probe", engine.url)
        lines = run_command("probe", engine.url, "--api", "messages", "--csv", "--totals")
    assert "over the API messages" in table.output
    assert "over the API" not in plain.output
    assert [line.rpartition(",")[2] for line in lines.output.splitlines()] == ["api"] + [
        "messages"
    ] * 9


def test_cold_controls_and_comparisons_go_over_the_api_too():
    with engine_beside() as engine:
        cold = run_command("probe", engine.url, "--cold", "--json", "--api", "messages")
        both = (f"a={engine.url}", f"b={engine.url}")
        compared = run_command("compare", *both, "--sessions", "2", "--json", "--api", "responses")
    assert cold.code == 0
    assert all(turn["cold_ttft_seconds"] is not None for turn in cold.json["turns"][1:])
    assert compared.code == 0, compared.errors


def test_the_option_is_the_setting(tmp_path):
    file = tmp_path / "exporter.toml"
    file.write_text('[probe]\napi = "messages"\n')
    with engine_beside(settings_like("vllm-0.9.2", AT_ONCE)) as engine:
        by_file = run_command("probe", engine.url, "--config", str(file))
        by_option = run_command(
            "probe", engine.url, "--config", str(file), "--api", "chat_completions"
        )
    assert by_file.code == 1
    assert "/v1/messages" in by_file.said
    assert by_option.code == 0


def test_an_unknown_api_is_refused_with_the_known_ones():
    result = run_command("probe", "http://127.0.0.1:9", "--api", "chat")
    assert result.code == 2
    assert all(name in result.said for name in SURFACES)
