"""A trace keeps the lengths of prompts and what they share, and no text."""

import json

import agent_recordings
import pytest
from agent_recordings import CHANGES, Agent
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.requests.estimated import Estimator
from exporter.analysis.requests.explaining import Explanation
from exporter.analysis.requests.traces import Trace
from exporter.analysis.reuse.learning import Learned
from exporter.analysis.reuse.rule import Rule
from exporter.errors import RecordingError
from exporter.probe.recorded.rendering import traced
from exporter.recording.reading import read_recording

UNIT = 16


def explained(records):
    recording = read_recording(agent_recordings.lines(list(records)), "log")
    estimator, explanation = Estimator(), Explanation(Learned(Rule(UNIT)), Trace(UNIT))
    for request in recording.requests:
        tokens = traced(request) if "hash_ids" in request.body else estimator.tokenized(request)
        explanation.add(request, tokens)
    return explanation


def without_answers(records):
    return [{"request": record["request"]} for record in records]


@given(st.lists(st.sampled_from([None, *CHANGES]), min_size=1, max_size=5))
def test_a_trace_that_is_read_again_reuses_as_many_tokens(reasons):
    def change(number, body):
        if reasons[number] is not None:
            CHANGES[reasons[number]](number, body)

    first = explained(without_answers(Agent().requests(len(reasons), change)))
    again = explained(first.trace.lines)
    for one, other in zip(first.requests, again.requests, strict=True):
        assert other.prompt_tokens == one.prompt_tokens
        assert other.reusable_tokens == one.reusable_tokens
    assert again.trace.lines == first.trace.lines


def test_a_trace_has_no_text():
    lines = explained(Agent().requests(3)).trace.lines
    said = json.dumps(lines)
    assert not {letter for letter in said if letter.isalpha()} - set(
        "input_lengthoutputhash_idsblocksize"
    )
    assert all(isinstance(one, int) for line in lines for one in line["hash_ids"])


def test_times_count_from_the_first_request():
    records = [{**one, "time": 1764500000 + 2.5 * n} for n, one in enumerate(Agent().requests(3))]
    assert [line["timestamp"] for line in explained(records).trace.lines] == [0, 2500, 5000]


def test_other_models_and_salts_share_no_block():
    records = Agent().requests(2)
    for number, record in enumerate(records):
        record["request"]["cache_salt"] = f"s{number}"
    first, second = explained(records).trace.lines
    assert not set(first["hash_ids"]) & set(second["hash_ids"])


MOONCAKE = {"timestamp": 27482, "input_length": 1300, "output_length": 52, "hash_ids": [46, 47, 48]}


def test_a_line_of_mooncake_has_blocks_of_512_tokens():
    later = {**MOONCAKE, "timestamp": 30000, "hash_ids": [46, 47, 2353]}
    found = explained([MOONCAKE, later]).requests
    assert [one.prompt_tokens for one in found] == [1300, 1300]
    assert found[1].reusable_tokens == 1024
    assert [one.conversation for one in found] == [1, 1]
    assert found[0].request.time == pytest.approx(27.482)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"input_length": 2000}, "3 hash_ids of 512 tokens cannot be a prompt of 2000 tokens"),
        ({"input_length": 1000}, "3 hash_ids of 512 tokens cannot be a prompt of 1000 tokens"),
        ({"input_length": "x"}, "input_length must be a number of tokens, not 'x'"),
        ({"input_length": 0}, "input_length must be a number of tokens, not 0"),
        ({"hash_ids": [1, "x", 3]}, "hash_ids must be a list of numbers"),
        ({"hash_ids": []}, "0 hash_ids of 512 tokens"),
    ],
)
def test_a_line_that_contradicts_itself_is_named(change, reason):
    with pytest.raises(RecordingError, match=f"line 1 {reason}"):
        explained([{**MOONCAKE, **change}])
