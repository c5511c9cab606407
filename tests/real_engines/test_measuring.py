"""A list of engines, one of them measured from its start to its record."""

from __future__ import annotations

import json
import sys

import pytest

import real_engines.__main__ as program
from real_engines.measuring import measure
from real_engines.page import BEGIN, END
from real_engines.programs import EngineError, answers, served
from real_engines.recipes import Recipe, RecipeError, read
from real_engines.record import as_text, record_of

ENGINE = '[[engines]]\nname = "a"\nkind = "plain"\n'


def written(folder, text):
    file = folder / "engines.toml"
    file.write_text(text, "utf-8")
    return file


def test_a_file_lists_engines(tmp_path):
    file = written(
        tmp_path,
        '[[engines]]\nname = "a"\nkind = "plain"\nurl = "http://h:8000/"\n'
        '[[engines]]\nname = "b"\nkind = "EAGLE"\ncommand = "serve \'a model\' --port {port}"\n',
    )
    first, second = read(file)
    assert (first.url, first.command) == ("http://h:8000/", None)
    assert second.words(7) == ["serve", "a model", "--port", "7"]


def test_a_small_cache_is_one_of_flags(tmp_path):
    text = ENGINE + 'command = "c"\nsmall_cache = { context_tokens = 1984, blocks = 64 }\n'
    (recipe,) = read(written(tmp_path, text))
    assert recipe.small_cache.context_flags == ["--max-model-len", "1984"]
    assert recipe.small_cache.flags[2:] == ["--num-gpu-blocks-override", "64"]
    assert recipe.small_cache.foreign_prompts == 1


def test_faults_alone_are_added_to_the_record_that_exists(tmp_path, record, monkeypatch):
    file = written(tmp_path, ENGINE + 'command = "c"\nno_faults = "caching is off"\n')
    page, kept = tmp_path / "engines.md", tmp_path / "a.json"
    page.write_text(f"{BEGIN}\n{END}", "utf-8")
    kept.write_text(as_text(record), "utf-8")
    monkeypatch.setattr(program, "RECORDS", tmp_path)
    monkeypatch.setattr(program, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["real_engines", "--faults", str(file)])
    assert program.main() == 0
    assert json.loads(kept.read_text("utf-8")) == record | {"faults": {"reason": "caching is off"}}
    assert "not played: caching is off" in page.read_text("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[[engines]]\nname = "a"\nkind = "plain"\n',
        '[[engines]]\nname = "a"\nkind = "plain"\nurl = "u"\ncommand = "c"\n',
        '[[engines]]\nname = "a"\nkind = "plain"\nurl = "u"\nunknown = 1\n',
        '[[engines]]\nname = "a"\nkind = "k"\nurl = "u"\n' * 2,
        ENGINE + 'url = "u"\nsmall_cache = { context_tokens = 1984, blocks = 64 }\n',
        ENGINE + 'command = "c"\nsmall_cache = { blocks = 64 }\n',
        ENGINE + 'command = "c"\nsmall_cache = { context_tokens = 9, blocks = 9, more = 1 }\n',
        ENGINE
        + 'command = "c"\nsmall_cache = { context_tokens = 9, blocks = 9 }\nno_faults = "why"\n',
    ],
)
def test_a_mistake_in_the_file_is_reported(tmp_path, text):
    with pytest.raises(RecipeError):
        read(written(tmp_path, text))


def test_an_engine_that_ends_at_once_is_reported_with_its_log(tmp_path):
    recipe = Recipe("dead", "plain", command=f"{sys.executable} -c 'print(7)'")
    log = tmp_path / "engine.log"
    with pytest.raises(EngineError, match="ended before it was ready"), served(recipe, log):
        pass
    assert log.read_text("utf-8") == "7\n"


def test_an_engine_is_served_measured_and_stopped(tmp_path):
    simulate = f"{sys.executable} -m exporter simulate --port {{port}}"
    recipe = Recipe("sim", "plain", command=simulate)
    with served(recipe, tmp_path / "engine.log") as url:
        record = record_of(recipe, measure(url, tmp_path, sessions=1))
    assert not answers(f"{url}/health")
    assert (record["name"], record["version"]) == ("sim", "0.32.0")
    assert record["check"]["exit_code"] == 0
    assert record["told"]["new"] == 0
    assert record["told"]["repeated"] > 0
    assert {test["verdict"] for test in record["check"]["tests"]} == {"pass"}
    assert url not in json.dumps(record)
    (session,) = record["sessions"]
    assert [turn["turn"] for turn in session["turns"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(turn["cached_tokens"] == turn["ideal_cached_tokens"] for turn in session["turns"])
    for counted in record["counters"].values():
        assert counted["engine"] == counted["exporter"] > 0


def test_the_settings_of_a_recipe_reach_the_sessions_and_check(tmp_path):
    simulate = f"{sys.executable} -m exporter simulate --like dp2 --port {{port}}"
    recipe = Recipe("sim", "two ranks", command=simulate, data_parallel_ranks="pinned")
    with served(recipe, tmp_path / "engine.log") as url:
        record = record_of(recipe, measure(url, tmp_path, recipe.settings, sessions=2))
    assert [session["data_parallel_rank"] for session in record["sessions"]] == [0, 1]
    assert all(turn["loss"] is None for one in record["sessions"] for turn in one["turns"])
    assert record["check"]["exit_code"] == 0


def test_a_record_has_a_line_for_each_turn(record):
    text = as_text(record)
    assert json.loads(text) == record
    assert sum(line.lstrip().startswith('{ "turn": ') for line in text.splitlines()) == 3
