"""Each request of a recording: what it can reuse, what its client changed, and why."""

import time
from array import array
from itertools import pairwise

import agent_recordings
import pytest
from agent_recordings import CHANGES, Agent
from hypothesis import given
from hypothesis import strategies as st
from recorded_json import JSON

from exporter.analysis.requests.estimated import Estimator
from exporter.analysis.requests.explaining import Explanation
from exporter.analysis.requests.sharing import repeated_tokens
from exporter.analysis.requests.totals import findings_of, totals_of
from exporter.analysis.requests.traces import Trace
from exporter.analysis.reuse.learning import Learned
from exporter.analysis.reuse.rule import Rule
from exporter.errors import RecordingError
from exporter.recording.reading import read_recording

UNIT = 16


PLAIN = Rule(UNIT)


def explained(*records, rule=PLAIN, isolated=False):
    recording = read_recording(agent_recordings.lines(list(records)), "log")
    estimator, explanation = Estimator(), Explanation(Learned(rule), Trace(UNIT), isolated)
    for request in recording.requests:
        explanation.add(request, estimator.tokenized(request))
    return explanation.requests


def test_a_clean_agent_reuses_all_that_came_before():
    found = explained(*Agent().requests(5))
    assert not any(one.changes for one in found)
    assert all(one.changed_tokens == 0 for one in found)
    assert all(one.reusable_tokens > before.prompt_tokens - UNIT for before, one in pairwise(found))
    assert totals_of(found).reusable_ratio == 1


@pytest.mark.parametrize("reason", CHANGES)
def test_the_reason_that_was_planted_is_found(reason):
    found = explained(*Agent().requests(4, CHANGES[reason]))
    (finding,) = findings_of(found)
    assert finding.change.reason == reason
    assert finding.changed_tokens == sum(one.changed_tokens for one in found)
    assert {one.conversation for one in found} == {1}


def test_reasoning_that_the_client_does_not_send_back_is_found():
    found = explained(*Agent().requests(4, reasoning=True))
    (finding,) = findings_of(found)
    assert finding.change.reason == "reasoning_stripped"
    assert (finding.change.place.number, finding.change.place.name) == (3, "assistant")


def test_reasoning_that_was_not_sent_before_is_found():
    def echo(number, body):
        for message in body["messages"] if number == 2 else ():
            if message["role"] == "assistant":
                message["reasoning_content"] = "so far it went well, and I think that " * 3

    (finding,) = findings_of(explained(*Agent().requests(3, echo)))
    assert finding.change.reason == "reasoning_echoed"


def test_another_model_and_another_salt_share_nothing():
    for key, reason in (("model", "model_changed"), ("cache_salt", "salt_changed")):
        found = explained(*Agent().requests(3, lambda n, body, k=key: body.update({k: f"x{n}"})))
        assert [one.reusable_tokens for one in found] == [0, 0, 0]
        assert [finding.change.reason for finding in findings_of(found)] == [reason]


def test_the_place_of_a_change_is_message_field_and_character():
    found = explained(*Agent().requests(2, CHANGES["time"]))
    place = found[1].change.place
    assert (place.section, place.number, place.field) == ("system", 1, "content")
    assert place.character == len("You are an agent.\nNow: 2026-11-28 10:0") + 1


def test_what_comes_after_a_change_is_lost_and_nothing_else():
    clean = explained(*Agent().requests(2))
    changed = explained(*Agent().requests(2, CHANGES["time"]))
    assert changed[1].new_tokens <= clean[1].new_tokens + UNIT
    assert changed[1].reusable_tokens < UNIT * 2


def test_two_agents_at_once_are_two_conversations():
    first, second = Agent(1).requests(4), Agent(2).requests(4)
    found = explained(*(one for pair in zip(first, second, strict=True) for one in pair))
    assert [one.conversation for one in found] == [1, 2] * 4
    assert not any(one.changes for one in found)


def test_a_sub_agent_with_the_same_system_prompt_is_a_conversation_of_its_own_and_reuses_it():
    main, sub = Agent(1).requests(2), Agent(2).begun_like(Agent(1)).requests(2)
    found = explained(*main, *sub)
    assert [one.conversation for one in found] == [1, 1, 2, 2]
    assert found[2].reusable_tokens > 200
    assert not any(one.changes for one in found)


def test_with_a_salt_for_each_conversation_two_do_not_share():
    main, sub = Agent(1).requests(1), Agent(2).begun_like(Agent(1)).requests(1)
    assert explained(*main, *sub)[1].reusable_tokens > 200
    assert explained(*main, *sub, isolated=True)[1].reusable_tokens == 0


def test_a_request_that_is_sent_again_reuses_all_but_its_last_block():
    (one,) = Agent().requests(1)
    found = explained(one, one)
    assert found[1].reusable_tokens == (found[1].prompt_tokens - 1) // UNIT * UNIT
    assert found[1].conversation == 1
    assert not found[1].changes


def test_a_question_that_is_asked_in_another_way_is_a_branch_and_no_fault():
    records = Agent().requests(3)
    branch = Agent().requests(3)[2]
    branch["request"]["messages"][-1]["content"] = "And what does the license say of it?"
    found = explained(*records, branch)
    assert found[3].changed_tokens == 0
    assert found[3].conversation == 1


FILE = " ".join(f"def {word}(self): gives {word} to the caller" for word in "abcdefghijklmnop")
RULES = " ".join(f"Rule {word}: never skip the step {word}." for word in "abcdefghijklmnop")


def spoken(role, content):
    return {"role": role, "content": content}


def asked(*messages, **others):
    return {"model": "m", "messages": [spoken("system", RULES), *messages], **others}


def function(name, text="does it"):
    return {"type": "function", "function": {"name": name, "description": f"{text} {FILE}"}}


def reasons(found):
    return [each.reason for each in found.changes]


def test_a_file_that_is_read_again_is_new_the_second_time():
    def request(now, *more):
        return {
            "model": "m",
            "messages": [spoken("system", f"It is {now}."), spoken("user", FILE), *more],
        }

    again = [spoken("assistant", "ok"), spoken("user", f"Once more: {FILE}")]
    found = explained(request("10:01"), request("10:02", *again))
    file = explained(request("10:01"))[0].prompt_tokens
    assert found[1].changed_tokens <= file
    assert found[1].new_tokens > file - 2 * UNIT


def test_what_stands_before_a_change_is_not_lost_by_it():
    first, edited = spoken("user", FILE), spoken("user", "Stop. Forget this. " + FILE)
    found = explained(asked(first, spoken("user", "hello")), asked(first, edited))
    assert found[1].changed_tokens == 0


def test_tools_that_move_are_named_before_one_that_is_added_after_them():
    first = [function("a"), function("b"), function("c")]
    later = [function("c"), function("a"), function("b"), function("d")]
    question = spoken("user", FILE)
    found = explained(asked(question, tools=first), asked(question, tools=later))
    assert reasons(found[1]) == ["tools_reordered", "tools_added"]


def test_a_tool_that_is_listed_twice_and_then_once_was_removed():
    question, tools = spoken("user", FILE), [function("a"), function("a")]
    found = explained(asked(question, tools=tools), asked(question, tools=tools[:1]))
    assert reasons(found[1]) == ["tools_removed"]


def responding(*items):
    return {"model": "m", "instructions": RULES, "input": list(items)}


THOUGHT = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm " + RULES}]}


@pytest.mark.parametrize(
    ("earlier", "later", "reason"),
    [([THOUGHT], [], "reasoning_stripped"), ([], [THOUGHT], "reasoning_echoed")],
)
def test_reasoning_that_is_an_item_is_no_history(earlier, later, reason):
    said = spoken("assistant", FILE)
    before = responding(spoken("user", "go"), *earlier, said, spoken("user", "and?"))
    after = responding(spoken("user", "go"), *later, said, spoken("user", "and?"))
    assert reasons(explained(before, after)[1]) == [reason]


def thinking(*thoughts):
    parts = [{"type": "thinking", "thinking": each, "signature": "s"} for each in thoughts]
    content = [*parts[:1], {"type": "text", "text": "so"}, {"type": "text", "text": FILE}]
    return {"role": "assistant", "content": [*content, *parts[1:]]}


def test_each_of_several_thoughts_counts_and_does_not_move_the_texts():
    talk = [[spoken("user", "go"), thinking(*each)] for each in (("a", "b"), ("c", "b"), ())]
    found = explained(*({"model": "m", "system": RULES, "messages": each} for each in talk))
    place = found[1].change.place
    assert (place.number, place.field, place.character) == (2, "reasoning", 1)
    assert reasons(found[2]) == ["reasoning_stripped"]


def test_a_marker_of_the_cache_that_moves_is_no_change():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    text = {"type": "text", "text": FILE}
    marker = {"cache_control": {"type": "ephemeral"}}
    first = spoken("user", [picture | marker, text | marker])
    again = [spoken("user", [picture, text]), spoken("assistant", "ok")]
    found = explained(asked(first), asked(*again, spoken("user", [text | marker])))
    assert not found[1].changes
    assert found[1].reusable_tokens > found[0].prompt_tokens - UNIT


def test_one_of_several_answers_is_no_edit_of_another():
    question, answers = spoken("user", "go"), [spoken("assistant", f"{n} {FILE}") for n in "12"]
    record = {
        "request": asked(question, n=2),
        "response": {"choices": [{"message": each} for each in answers]},
    }
    found = explained(record, asked(question, answers[1], spoken("user", "and?")))
    assert not found[1].changes


def test_the_engines_rule_decides_what_can_be_reused():
    records = Agent().requests(3)
    plain, dropped = explained(*records), explained(*records, rule=Rule(UNIT, dropped_blocks=1))
    assert [a.reusable_tokens - b.reusable_tokens for a, b in zip(plain, dropped, strict=True)] == [
        0, UNIT, UNIT,
    ]  # fmt: skip


@given(st.lists(st.sampled_from([None, *CHANGES]), min_size=1, max_size=6), st.booleans())
def test_the_parts_of_a_prompt_add_up_whatever_changes(reasons, isolated):
    def change(number, body):
        if reasons[number] is not None:
            CHANGES[reasons[number]](number, body)

    found = explained(*Agent().requests(len(reasons), change), isolated=isolated)
    for one in found:
        assert 0 <= one.reusable_tokens < one.prompt_tokens
        assert one.changed_tokens >= 0
        assert one.new_tokens >= 0
        assert bool(one.changes) == (one.changed_tokens > 0)
    totals = totals_of(found)
    assert sum(each.changed_tokens for each in findings_of(found)) == totals.changed_tokens


@given(st.lists(JSON, max_size=5))
def test_any_recording_can_be_explained(values):
    try:
        found = explained(*values)
    except RecordingError:
        return
    assert all(one.new_tokens >= 0 for one in found)


def test_many_equal_tokens_are_compared_in_a_moment():
    earlier, later = array("I", [7] + [1] * 200_000), array("I", [8] + [1] * 300_000)
    began = time.process_time()
    assert abs(repeated_tokens(later, 0, earlier) - 200_000) <= UNIT
    assert time.process_time() - began < 10
