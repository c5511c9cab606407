"""A list of engines, one of them measured from its start to its record."""

from __future__ import annotations

import json
import sys

import pytest

from real_engines.measuring import measure
from real_engines.programs import EngineError, answers, served
from real_engines.recipes import Recipe, RecipeError, read
from real_engines.record import as_text, record_of


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


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[[engines]]\nname = "a"\nkind = "plain"\n',
        '[[engines]]\nname = "a"\nkind = "plain"\nurl = "u"\ncommand = "c"\n',
        '[[engines]]\nname = "a"\nkind = "plain"\nurl = "u"\nunknown = 1\n',
        '[[engines]]\nname = "a"\nkind = "k"\nurl = "u"\n' * 2,
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


def test_a_record_has_a_line_for_each_turn(record):
    text = as_text(record)
    assert json.loads(text) == record
    assert sum(line.lstrip().startswith('{ "turn": ') for line in text.splitlines()) == 3
