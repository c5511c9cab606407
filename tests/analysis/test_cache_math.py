"""The cache arithmetic, against an oracle that keeps blocks, and against recorded turns."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ideals import ideal_of

from exporter.analysis.reuse.cache_math import common_prefix, ideal_tokens, reusable
from exporter.engine.wire.sse import Decoder
from exporter.engine.wire.surfaces.chat_completions import ChatAnswer
from exporter.model.chat import Chat, Usage

DATA = Path(__file__).parent / "data"
STREAMS = Path(__file__).parents[1] / "engine" / "data"

tokens = st.lists(st.integers(0, 2), max_size=40).map(tuple)
blocks = st.integers(1, 9)


def turn(index=1, usage=None, prompt=None, completion=None, **times) -> Chat:
    stamps = {"sent_at": 10.0, "token_times": (10.5,), "finished_at": 12.0} | times
    return Chat(
        index=index,
        usage=usage,
        finish_reason="length",
        prompt_token_ids=prompt,
        completion_token_ids=completion,
        **stamps,
    )


def blocks_of(sequence, size):
    """The chained blocks that an engine has of a sequence: each is known by all before it."""
    return {sequence[:end] for end in range(size, len(sequence) + 1, size)}


@given(prompt=tokens, earlier=st.lists(tokens, max_size=4), size=blocks)
def test_the_ideal_is_what_a_cache_of_whole_blocks_would_serve(prompt, earlier, size):
    cache = set().union(*(blocks_of(sequence, size) for sequence in earlier))
    served = 0
    while served + size <= len(prompt) - 1 and prompt[: served + size] in cache:
        served += size
    assert ideal_of(prompt, earlier, size) == served


@given(one=tokens, other=tokens)
def test_the_common_prefix_is_where_the_first_difference_is(one, other):
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


@given(prompt=tokens, size=blocks)
def test_a_repeated_prompt_never_hits_its_last_token(prompt, size):
    ideal = ideal_of(prompt, [prompt], size)
    assert ideal < max(1, len(prompt))
    assert ideal % size == 0


@pytest.mark.parametrize(
    ("length", "cached"),  # recorded: a prompt of so many tokens, sent twice, blocks of 32
    [(31, 0), (32, 0), (33, 32), (63, 32), (64, 32), (65, 64), (128, 96), (129, 128), (160, 128)],
)
def test_exact_lengths_hit_as_recorded(length, cached):
    prompt = tuple(range(length))
    assert ideal_of(prompt, [prompt], 32) == cached


@pytest.mark.parametrize(
    ("prompt", "generated", "next_prompt", "cached"),  # recorded, blocks of 32
    [
        *[(24, 8, 40, 0), (24, 9, 41, 32), (24, 10, 42, 32), (63, 1, 72, 32), (63, 2, 73, 64)],
        *[(32, 32, 72, 32), (32, 33, 73, 64), (37, 70, 115, 96), (3, 96, 107, 96)],
    ],
)
def test_a_completion_hits_as_recorded_less_its_last_token(prompt, generated, next_prompt, cached):
    everything = tuple(range(prompt + generated))
    first = turn(prompt=everything[:prompt], completion=everything[prompt:])
    fresh = tuple(range(1000, 1000 + next_prompt - len(everything)))
    second = turn(index=2, prompt=everything + fresh)
    assert ideal_tokens(reusable(second, [first]), 32) == cached


@pytest.mark.parametrize(
    "name",
    [
        "main32_stream_w60_turns.json",
        "main32_nonstream_salt_w25_turns.json",
        "first-model_plain32_stream_w60_turns.json",
    ],
)
def test_every_recorded_turn_hit_its_ideal(name):
    for recorded in json.loads((DATA / name).read_text()):
        common = recorded["common_with_prev_prompt_and_completion"]
        length = recorded["prompt_tokens"]
        prompt = tuple(range(length))
        earlier = (*prompt[:common], -1)
        assert ideal_of(prompt, [earlier], 32) == recorded["cached_tokens"]


def test_the_token_ids_of_two_recorded_turns_give_the_hit_that_was_reported():
    turns = []
    for index, name in enumerate(["stream_turn0.sse.txt", "stream_turn1.sse.txt"], start=1):
        text = (STREAMS / name).read_text()
        answer = ChatAnswer()
        for event in Decoder().feed(text[text.index("data: ") :].encode()):
            answer.add(event.data, 1.0)
        ids = tuple(answer.completion_token_ids)
        turns.append(turn(index, answer.usage, answer.prompt_token_ids, ids))
    assert ideal_tokens(reusable(turns[1], turns[:1]), 32) == turns[1].usage.cached_tokens == 192


def test_the_best_of_several_earlier_turns_counts():
    first = turn(prompt=(1, 2, 3, 4, 5, 6), completion=(9,))
    second = turn(index=2, prompt=(7, 7), completion=(9,))
    third = turn(index=3, prompt=(1, 2, 3, 4, 5, 0))
    assert ideal_tokens(reusable(third, [first, second]), 2) == 4


def test_a_first_turn_has_nothing_to_reuse_even_if_the_unit_is_unknown():
    assert ideal_tokens(reusable(turn(prompt=(1, 2)), []), None) == 0


@pytest.mark.parametrize(
    ("first", "second", "unit"),
    [
        (turn(prompt=(1,), completion=(2,)), turn(index=2, prompt=(1, 2, 3)), None),
        (turn(prompt=(1,), completion=(2,)), turn(index=2), 2),
        (turn(prompt=(1,)), turn(index=2, prompt=(1, 2, 3)), 2),
        (turn(), turn(index=2, prompt=(1, 2, 3)), 2),
    ],
)
def test_without_ids_or_a_block_size_the_ideal_is_unknown(first, second, unit):
    assert ideal_tokens(reusable(second, [first]), unit) is None


@pytest.mark.parametrize(
    ("pieces", "cached", "ideal"),
    [
        ((), 6, 6),  # it hit all that the answer can have filled
        ((), 4, None),  # part of the answer was hit, and the rest may be lost or encoded otherwise
        ((), 0, None),
        ((), None, None),
        (None, 6, None),  # an API that sends ids, of which some are missing
    ],
)
def test_a_hit_beyond_the_prompt_before_proves_what_of_its_answer_is_shared(pieces, cached, ideal):
    first = replace(
        turn(prompt=(1, 2), usage=Usage(2, 5, 0)),
        text_pieces=pieces,
    )
    second = turn(index=2, prompt=tuple(range(1, 11)), usage=Usage(10, 1, cached))
    assert ideal_tokens(reusable(second, [first]), 2) == ideal


def turn_of(index, prompt, answer, *, known=True):
    """A turn whose answer's ids are known, or only their number."""
    return Chat(
        index=index,
        sent_at=0.0,
        token_times=(),
        finished_at=1.0,
        usage=Usage(len(prompt), len(answer), None),
        finish_reason="length",
        prompt_token_ids=tuple(prompt),
        completion_token_ids=tuple(answer) if known else None,
    )


few_tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@given(
    parts=st.lists(
        st.tuples(few_tokens, few_tokens, st.booleans(), st.booleans()), min_size=1, max_size=4
    ),
    last=few_tokens,
    unit=st.integers(1, 6),
)
def test_an_ideal_without_the_answers_ids_is_the_true_one_or_unknown(parts, last, unit):
    prompt, exact, partial = [], [], []
    for index, (more, answer, kept, known) in enumerate(parts, start=1):
        prompt = prompt + more
        exact.append(turn_of(index, prompt, answer))
        partial.append(turn_of(index, prompt, answer, known=known))
        prompt = prompt + answer if kept else prompt
    turn = turn_of(len(parts) + 1, prompt + last, [0])
    true = ideal_tokens(reusable(turn, exact), unit)
    assert true is not None
    assert ideal_tokens(reusable(turn, partial), unit) in (None, true)
    if all(known for *_, known in parts):
        assert ideal_tokens(reusable(turn, partial), unit) == true


@given(prompt=few_tokens, more=few_tokens, answer=few_tokens, unit=st.integers(1, 6))
def test_a_prompt_that_differs_from_the_one_before_does_not_need_its_answer(
    prompt, more, answer, unit
):
    first = turn_of(1, [*prompt, 3], answer, known=False)
    turn = turn_of(2, [*prompt, 4, *more], [0])
    assert ideal_tokens(reusable(turn, [first]), unit) == len(prompt) // unit * unit


def test_an_answer_with_unknown_ids_makes_the_ideal_unknown_only_if_it_may_fill_a_block():
    first = turn_of(1, range(60), range(60, 65), known=False)
    later = turn_of(2, range(80), [0])
    assert ideal_tokens(reusable(later, [first]), 16) is None, (
        "64 tokens may be four blocks, 60 are three"
    )
    assert ideal_tokens(reusable(later, [first]), 32) is None
    assert ideal_tokens(reusable(later, [first]), 128) == 0
    assert (
        ideal_tokens(reusable(later, [turn_of(1, range(50), range(50, 55), known=False)]), 16) == 48
    )
