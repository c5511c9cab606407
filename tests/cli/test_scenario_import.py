"""`scenario import`: the file that it writes, and what it says of it."""

import io
import json
import sys

import pytest

from exporter.cli.main import main
from exporter.errors import ConfigError
from exporter.scenario.library import load_scenarios

SECRET = "the canary of a user"
TALK = [
    {"role": "user", "content": SECRET},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "and more"},
]


@pytest.fixture
def log(tmp_path):
    file = tmp_path / "my requests.jsonl"
    bodies = [
        {"model": "m", "messages": TALK[:1]},
        {"messages": [{"role": "user", "content": "t"}]},
    ]
    bodies.append({"model": "m", "temperature": 0, "messages": TALK})
    file.write_text("".join(json.dumps(body) + "\n" for body in bodies), "utf-8")
    return file


def test_the_file_that_is_written_can_be_played(log, tmp_path, capsys):
    file = tmp_path / "agent.json"
    assert main(["scenario", "import", str(log), "--output", str(file)]) == 0
    (kind,) = load_scenarios(str(file))
    assert kind.name == "agent"
    assert len(kind.build(0).steps) == 2
    out, told = capsys.readouterr()
    assert out == ""
    assert "--conversation 1: line 1 to line 3, 2 turns (taken)" in told
    assert "--conversation 2: line 2, 1 turn\n" in told
    assert "temperature of a request: 1" in told
    assert "sent to the engine in every session" in told
    assert SECRET not in told


def test_a_log_on_standard_input_becomes_a_scenario_on_standard_output(log, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(log.read_bytes())))
    assert main(["scenario", "import", "-", "--name", "x"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made == {"name": "x", "messages": TALK}


def test_the_name_of_the_file_becomes_a_label(log, capsys):
    assert main(["scenario", "import", str(log)]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "my-requests"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--conversation", "2"], "have only one turn"),
        (["--conversation", "3"], "the log has 2"),
        (["--name", "a b"], 'must be 1 to 64 letters, digits, "_", "." or "-"'),
        (["--output", "/nowhere/agent.json"], "cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_said_with_exit_code_2(log, capsys, more, said):
    assert main(["scenario", "import", str(log), *more]) == 2
    assert said in capsys.readouterr().err


def test_no_file_is_written_over(log, capsys):
    before = log.read_text("utf-8")
    assert main(["scenario", "import", str(log), "--output", str(log)]) == 2
    assert "exists" in capsys.readouterr().err
    assert log.read_text("utf-8") == before


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"\xff", "is not UTF-8"), (b"", "has no request"), (b"[1]", "has no request")],
)
def test_a_file_that_is_no_log_is_said_with_exit_code_2(tmp_path, capsys, data, said):
    file = tmp_path / "log"
    file.write_bytes(data)
    assert main(["scenario", "import", str(file)]) == 2
    assert said in capsys.readouterr().err


def test_a_request_as_a_scenario_names_the_command_that_makes_one(tmp_path):
    file = tmp_path / "body.json"
    file.write_text(json.dumps({"model": "m", "messages": TALK}), "utf-8")
    with pytest.raises(ConfigError, match="`scenario import` makes a scenario"):
        load_scenarios(str(file))
