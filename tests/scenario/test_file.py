"""Scenario files: what is played, and which errors are reported."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import ConfigError, ScenarioError
from exporter.scenario.file import MOST_MESSAGES, parse_json, parse_lines
from exporter.scenario.library import BUILT_IN, MOST_BYTES, fingerprint, load_scenarios

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASK, SAY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "r"}
texts = st.text(st.characters(exclude_categories=["Cs"]))


@st.composite
def conversations(draw):
    """At least two turns, some with a tool call and its result."""
    messages = [{"role": "user", "content": draw(texts)}]
    for number in range(draw(st.integers(2, 6))):
        if draw(st.booleans()):
            call = {**CALL, "id": f"c{number}"}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": draw(texts)})
        else:
            part = {"type": "text", "text": draw(texts)}
            messages += [{"role": "assistant", "content": draw(texts)}]
            messages += [{"role": "user", "content": [part]}]
    return messages


@given(messages=conversations())
def test_a_valid_conversation_is_played_message_by_message_in_both_formats(messages):
    whole = parse_json(json.dumps({"replay": "recorded", "messages": messages}), "t.json", "t")
    head = json.dumps({"replay": "recorded"})
    lines = "\n".join([head, *(json.dumps(message) for message in messages)])
    scenario = whole.build(0)
    assert [message for step in scenario.steps for message in step] == messages
    assert parse_lines(lines, "t.jsonl", "t").build(0) == scenario
    assert len(scenario.steps) == 1 + sum(m["role"] == "assistant" for m in messages)


def test_tool_calls_are_replayed_as_recorded_and_other_conversations_with_the_engines_answers():
    talk = parse_json(json.dumps([ASK, SAY, ASK]), "t.json", "t").build(0)
    assert (talk.recorded, talk.steps) == (False, ((ASK,), (ASK,)))
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    trace = parse_json(json.dumps([ASK, calls, RESULT, SAY]), "t.json", "t").build(0)
    assert (trace.recorded, trace.steps) == (True, ((ASK,), (calls, RESULT)))


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}


@pytest.mark.parametrize(
    ("content", "errors"),
    [
        ("{", ["line 1, column 2: is not JSON: Expecting property name enclosed in double quotes"]),
        ("[]", ["messages: must not be empty"]),
        ("{}", ["messages: must be a list of messages, not null"]),
        ([ASK, float("nan")], ["has NaN, which JSON does not know"]),
        ([ASK], ["messages: have only one turn: a cache hit needs a turn before it"]),
        ([IMAGE], ['messages[0].content[0].type: "image_url" is not supported: only text parts are']),
        (
            [{"role": "robot"}, {**ASK, "mood": 1}],
            [
                'messages[0].role: must be one of system, developer, user, assistant, tool, not "robot"',
                "messages[1].mood: is not known in a message of role 'user': it could change the prompt",
            ],
        ),
        (
            [ASK, SAY, RESULT],
            ['messages[2].tool_call_id: no earlier call with the id "c1" waits for a result'],
        ),
        (
            [SAY, ASK],
            ["messages[0].role: the first message must not be the assistant's: it has nothing to answer"],
        ),
        (
            [ASK, SAY, SAY],
            [
                (
                    "messages[2].role: an assistant's message must not follow another "
                    "without a message between them"
                )
            ],
        ),
        ([{"role": "user", "content": 3}], ["messages[0].content: must be text or a list of text parts, not 3"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_every_line_and_field(content, errors):
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(ScenarioError) as refused:
        parse_json(text, "t.json", "t")
    assert str(refused.value).splitlines() == [f"t.json: {each}" for each in errors]


def test_json_lines_name_the_line():
    text = "\n".join(['{"name": "a b"}', json.dumps(ASK), "{", json.dumps({"role": "user"})])
    with pytest.raises(ScenarioError) as refused:
        parse_lines(text, "t.jsonl", "t")
    told = str(refused.value)
    assert "t.jsonl: line 3: column 2: is not JSON" in told
    assert "t.jsonl: line 4: content: is missing" in told
    assert "t.jsonl: name: must be 1 to 64 letters" in told


def test_every_recorded_scenario_is_built_in():
    recorded = {Path(each.name).stem for each in files("exporter.scenario.recorded").iterdir()}
    assert recorded <= set(BUILT_IN), "it needs a row in BUILT_IN (exporter/scenario/library.py)"


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_scenario_loads_under_its_name(name):
    assert [kind.name for kind in load_scenarios(name)] == [name]


def test_a_folder_is_loaded_in_name_order_and_all_its_errors_are_reported(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps([ASK, SAY, ASK]))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [ASK, SAY, ASK])))
    assert [kind.name for kind in load_scenarios(str(tmp_path))] == ["a", "b"]
    (tmp_path / "c.json").write_text("[]")
    (tmp_path / "d.json").write_bytes(b"\xff")
    with pytest.raises(
        ConfigError, match=r"c\.json: messages: must not be empty\n.*d\.json: is not"
    ):
        load_scenarios(str(tmp_path))
    with pytest.raises(ConfigError, match="neither a built-in scenario"):
        load_scenarios("nothing")


def test_a_folder_that_cannot_be_read_is_an_error_with_its_reason():
    wanted = "x" * 5000
    with pytest.raises(ConfigError) as refused:
        load_scenarios(wanted)
    assert str(refused.value).startswith(f"probe.scenario: {wanted!r} cannot be read: File")
    assert fingerprint(wanted), "it is something, so that a reload sees when it changes"


def test_a_conversation_beyond_the_limit_of_messages_is_refused_with_both_numbers(tmp_path):
    messages = [ASK, SAY] * (MOST_MESSAGES // 2)
    path = tmp_path / "long.json"
    path.write_text(json.dumps(messages))
    assert len(load_scenarios(str(path))[0].build(0).steps) == MOST_MESSAGES // 2
    path.write_text(json.dumps([*messages, ASK]))
    with pytest.raises(ConfigError) as refused:
        load_scenarios(str(path))
    assert str(refused.value) == f"{path}: 2001 messages are more than 2000"


@pytest.mark.parametrize("name", ["large.json", "large.jsonl"])
def test_a_file_beyond_the_limit_of_size_is_refused_by_its_size(tmp_path, name):
    path = tmp_path / name
    whole = (
        json.dumps([ASK, SAY, ASK])
        if name == "large.json"
        else "\n".join(map(json.dumps, [ASK, SAY, ASK]))
    )
    path.write_text(whole + " " * (MOST_BYTES - len(whole)))
    assert len(load_scenarios(str(path))) == 1, "exactly the limit is still read"
    path.write_text(whole + " " * (MOST_BYTES - len(whole) + 1))
    with pytest.raises(ConfigError) as refused:
        load_scenarios(str(path))
    assert str(refused.value) == f"{path}: is larger than 8 MiB"


def test_an_error_shows_only_the_beginning_of_a_long_key():
    with pytest.raises(ScenarioError) as caught:
        parse_json(json.dumps({"k" * 100_000: 1, "messages": [ASK, SAY, ASK]}), "t.json", "t")
    assert str(caught.value).startswith(f"t.json: {'k' * 100}…: is not known")
    assert len(str(caught.value)) < 300
