"""`explain`: what it prints, its exit codes, and what it keeps to itself."""

import json
from pathlib import Path

import jsonschema
import pytest
from agent_recordings import CHANGES, Agent, lines

from exporter.cli.explain.estimating import estimated
from exporter.cli.main import main
from exporter.recording.reading import read_recording

SECRET = "canary-of-a-user"


@pytest.fixture
def recording(tmp_path):
    def write(*records, tail=b""):
        file = tmp_path / "requests.jsonl"
        file.write_bytes(b"".join(lines(list(records))) + tail)
        return str(file)

    return write


SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).parents[2] / "docs/schemas/explain.json").read_text("utf-8"))
)


def explain(capsys, *arguments):
    code = main(["explain", *arguments])
    out, told = capsys.readouterr()
    return code, out, told


def test_the_most_expensive_change_is_said_with_its_remedy(recording, capsys):
    code, out, _ = explain(capsys, recording(*Agent().requests(4, CHANGES["time"])))
    words = " ".join(out.split())
    assert code == 0
    assert "4 requests in 1 conversation" in words
    assert "of the reusable tokens are lost to a time in the system prompt (message 1" in words
    assert "move it to the last message" in words
    assert "estimates without an engine" in words


def test_a_clean_recording_has_nothing_to_change(recording, capsys):
    code, out, told = explain(
        capsys, recording(*Agent().requests(3)), "--fail-under-reusable", "0.99"
    )
    assert (code, told) == (0, "")
    assert "Nothing to change" in out


def test_texts_are_shown_only_if_asked_for(recording, capsys):
    def leak(number, body):
        body["messages"][0]["content"] = f"{SECRET}-{number} " + body["messages"][0]["content"]

    file = recording(*Agent().requests(3, leak))
    for arguments in ([], ["--json"], ["--quiet"]):
        _, out, told = explain(capsys, file, *arguments)
        assert "canary" not in out + told
    _, out, _ = explain(capsys, file, "--show-text")
    assert "was «" in out


def test_a_ratio_that_is_not_reached_is_exit_code_1(recording, capsys):
    file = recording(*Agent().requests(4, CHANGES["id"]))
    code, _, told = explain(capsys, file, "--quiet", "--fail-under-reusable", "0.8")
    assert code == 1
    assert "less than 80.0 %" in told


def test_lines_that_are_no_requests_are_named_and_the_others_used(recording, capsys):
    file = recording(*Agent().requests(2), tail=b'{"cut": \n{"a": 1}\n')
    code, out, told = explain(capsys, file)
    assert code == 0
    assert "2 requests" in out
    assert f"{file}, line 3: is not JSON" in told
    assert "line 4: has no messages" in told


@pytest.mark.parametrize("text", ["", "hello\n", '{"prompt": "x"}\n'])
def test_a_file_without_requests_is_wrong_usage(text, tmp_path, capsys):
    file = tmp_path / "requests.jsonl"
    file.write_text(text, "utf-8")
    code, out, told = explain(capsys, str(file))
    assert (code, out) == (2, "")
    assert told.startswith(f"{file}: has no request of /v1/chat/completions")


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path, capsys):
    code, _, told = explain(capsys, str(tmp_path / "none.jsonl"))
    assert code == 2
    assert "none.jsonl cannot be read: No such file" in told


def test_a_replay_needs_an_engine(recording, capsys):
    code, _, told = explain(capsys, recording(*Agent().requests(1)), "--replay")
    assert code == 2
    assert "--replay needs an engine" in told


def test_the_json_has_every_request_and_adds_up(recording, capsys):
    file = recording(*Agent().requests(4, CHANGES["tools_added"]))
    code, out, _ = explain(capsys, file, "--json")
    said = json.loads(out)
    SCHEMA.validate(said)
    assert code == 0
    assert said["estimated"] is True
    assert [one["place"] for one in said["requests"]] == [f"line {n}" for n in range(1, 5)]
    for one in said["requests"]:
        parts = (one["reusable_tokens"], one["changed_tokens"], one["new_tokens"])
        assert sum(parts) == one["prompt_tokens"]
    assert said["findings"][0]["change"]["reason"] == "tools_added"
    assert said["findings"][0]["change"]["place"]["section"] == "tools"


def test_on_an_engine_the_tokens_are_its_own_and_a_replay_hits_all_that_can_be(recording, capsys):
    file = recording(*Agent().requests(4, CHANGES["history_truncated"]))
    code, out, told = explain(capsys, file, "--simulated", "--replay", "--json")
    assert (code, told) == (0, "")
    said = json.loads(out)
    SCHEMA.validate(said)
    assert said["estimated"] is False
    for one in said["requests"]:
        assert one["replayed"]["prompt_tokens"] == one["prompt_tokens"]
        assert one["replayed"]["cached_tokens"] == one["replayed"]["reusable_tokens"]
    assert said["findings"][0]["change"]["reason"] == "history_truncated"


def test_a_replay_beyond_the_budget_is_refused_before_it_sends(recording, capsys):
    file = recording(*Agent().requests(4))
    code, out, told = explain(
        capsys, file, "--simulated", "--replay", "--probe.tokens_per_hour", "1000"
    )
    assert (code, out) == (2, "")
    assert "more than probe.tokens_per_hour = 1,000 allows" in told


def test_an_engine_that_is_not_there_is_exit_code_1(recording, capsys):
    file = recording(*Agent().requests(1))
    code, out, told = explain(capsys, file, "--url", "http://127.0.0.1:1")
    assert (code, out) == (1, "")
    assert "http://127.0.0.1:1: " in told


def test_two_recordings_stand_beside_each_other(tmp_path, capsys):
    before, now = tmp_path / "before.jsonl", tmp_path / "now.jsonl"
    before.write_bytes(b"".join(lines(Agent().requests(4, CHANGES["time"]))))
    now.write_bytes(b"".join(lines(Agent().requests(4))))
    code, out, _ = explain(capsys, str(now), "--before", str(before))
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert any(row.startswith("reusable of what is repeated") and "100 %" in row for row in rows)
    assert any(row.startswith("changed: time, system") and row.endswith(" 0") for row in rows)
    _, out, _ = explain(capsys, str(now), "--before", str(before), "--json")
    said = json.loads(out)
    SCHEMA.validate(said)
    assert said["before"]["reusable_ratio"] < 0.1 < said["totals"]["reusable_ratio"]


def test_several_files_are_one_recording(tmp_path, capsys):
    records, files = Agent().requests(4), []
    for number in range(2):
        files.append(str(tmp_path / f"{number}.jsonl"))
        Path(files[-1]).write_bytes(b"".join(lines(records[2 * number : 2 * number + 2])))
    code, out, _ = explain(capsys, *files, "--json")
    said = json.loads(out)
    assert code == 0
    assert said["totals"]["conversations"] == 1
    assert said["requests"][2]["place"] == f"{files[1]}, line 1"


@pytest.mark.parametrize("name", ["chart.png", "chart.svg"])
def test_the_chart_is_written(name, recording, tmp_path, capsys):
    file = recording(*Agent().requests(3, CHANGES["time"]), *Agent(2).requests(3, CHANGES["id"]))
    code, _, _ = explain(capsys, file, "--quiet", "--chart", str(tmp_path / name))
    picture = (tmp_path / name).read_bytes()
    assert code == 0
    if name.endswith("svg"):
        assert b"changed: time" in picture
        assert b"changed: id" in picture
    else:
        assert picture.startswith(b"\x89PNG")


def test_a_chart_that_cannot_be_written_is_said_before_the_work(recording, tmp_path, capsys):
    code, out, told = explain(
        capsys, recording(*Agent().requests(1)), "--chart", str(tmp_path / "no" / "chart.png")
    )
    assert (code, out) == (2, "")
    assert "does not exist" in told


def test_a_trace_without_texts_is_written_and_read(recording, tmp_path, capsys):
    file, trace = recording(*Agent().requests(4)), str(tmp_path / "trace.jsonl")
    code, _, _ = explain(capsys, file, "--quiet", "--trace", trace)
    assert code == 0
    assert "agent" not in Path(trace).read_text("utf-8")
    _, texts, _ = explain(capsys, file, "--json")
    code, blocks, told = explain(capsys, trace, "--json")
    assert (code, told) == (0, "")
    sizes = [
        [one["prompt_tokens"] for one in json.loads(out)["requests"]] for out in (texts, blocks)
    ]
    assert sizes[0] == sizes[1]
    assert json.loads(blocks)["totals"]["reusable_tokens"] > 0


def test_a_trace_that_cannot_be_written_is_said(recording, tmp_path, capsys):
    file = recording(*Agent().requests(1))
    code, _, told = explain(capsys, file, "--quiet", "--trace", str(tmp_path / "no" / "trace"))
    assert code == 2
    assert "--trace" in told
    assert "No such file" in told


def test_template_arguments_do_not_hide_a_time_from_estimates():
    said = [{"role": "user", "content": " ".join(map(str, range(100)))}]

    def request(number):
        system = {"role": "system", "content": f"It is 10:0{number}. You help."}
        return {
            "model": "m",
            "messages": [system, *said],
            "reasoning_effort": ("low", "high")[number],
        }

    lines = [json.dumps(request(number)).encode() for number in (0, 1)]
    found = estimated(read_recording(lines, "log"))
    assert [change.reason for change in found.requests[1].changes] == ["time"]
