"""The simulator's tokenizer, templates and answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.simulator.text import template, tokens
from exporter.simulator.text.answers import Wish, plan

# A lone surrogate is not text: it cannot be sent as UTF-8.
text = st.text(st.characters(exclude_categories=["Cs"]))
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["°C", "K"]},
                "days": {"type": "integer"},
            },
            "required": ["city", "unit", "days"],
        },
    },
}


@given(text)
def test_any_text_comes_back_from_its_ids(given_text):
    assert tokens.decode(tokens.encode(given_text)) == given_text


@given(st.lists(st.sampled_from(list(tokens.SPECIAL)) | text, max_size=6))
def test_special_tokens_are_one_id_each_at_any_position(parts):
    ids = tokens.encode("".join(parts))
    for name, number in tokens.SPECIAL.items():
        assert ids.count(number) == "".join(parts).count(name)


@given(text, text)
def test_text_after_the_end_of_a_turn_does_not_change_earlier_ids(before, after):
    ended = tokens.encode(before + "<|im_end|>")
    assert tokens.encode(before + "<|im_end|>" + after)[: len(ended)] == ended


def test_english_takes_about_as_many_tokens_as_with_a_real_tokenizer():
    sentence = "The server keeps the blocks of a prefix until it needs the room for another one. "
    assert 3 <= len(sentence * 20) / len(tokens.encode(sentence * 20)) <= 5


messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"]), "content": text}
    ),
    min_size=1,
    max_size=6,
)


@given(messages, text, messages)
def test_a_longer_conversation_starts_with_the_shorter_one(history, system, more):
    start = [{"role": "system", "content": system}, *history]
    short = tokens.encode(template.render(start, [WEATHER], generation_prompt=False))
    long = tokens.encode(template.render([*start, *more], [WEATHER]))
    assert long[: len(short)] == short


def test_the_bad_template_rewrites_history_from_the_first_user_message_on():
    system = {"role": "system", "content": "Be brief."}
    first, answer, second = (
        {"role": role, "content": content}
        for role, content in (("user", "one"), ("assistant", "two"), ("user", "three"))
    )
    turn1 = template.render([system, first], None, moving_system_prompt=True)
    turn2 = template.render([system, first, answer, second], None, moving_system_prompt=True)
    assert "Be brief." in turn1
    assert turn2.count("Be brief.") == 1
    assert turn2.index("Be brief.") > turn2.index("two")
    assert not turn2.startswith(turn1.removesuffix("<|im_start|>assistant\n"))


prompts = st.lists(st.integers(0, 2**28), max_size=40)


@given(prompts, st.integers(1, 60))
def test_an_answer_encodes_back_to_its_own_ids(prompt, most):
    answer = plan(prompt, Wish(max_tokens=most, usual_tokens=40))
    ids = [number for number in answer.token_ids if number != tokens.IM_END]
    assert tokens.encode(answer.content) == ids
    assert "".join(delta["content"] for delta in answer.deltas) == answer.content
    assert len(answer.deltas) == len(answer.token_ids) <= most
    assert answer.finish_reason == ("stop" if tokens.IM_END in answer.token_ids else "length")


@given(prompts)
def test_a_greedy_answer_depends_only_on_the_prompt(prompt):
    wish = Wish(max_tokens=30, usual_tokens=40)
    assert plan(prompt, wish) == plan(list(prompt), wish)


def test_other_prompts_and_other_seeds_get_other_answers():
    base = Wish(max_tokens=30, usual_tokens=60)
    sampled = Wish(max_tokens=30, usual_tokens=60, seed="7")
    answers = {
        plan(prompt, wish).content for prompt in ([1, 2], [1, 3]) for wish in (base, sampled)
    }
    assert len(answers) == 4


@given(prompts, st.lists(st.sampled_from([" th", "e", "token", "r a", "ll"]), min_size=1))
def test_a_stop_string_is_never_part_of_the_answer(prompt, stop):
    free = plan(prompt, Wish(max_tokens=40, usual_tokens=40, ignore_eos=True))
    cut = plan(prompt, Wish(max_tokens=40, usual_tokens=40, ignore_eos=True, stop=tuple(stop)))
    assert not any(end in cut.content for end in stop)
    assert free.content.startswith(cut.content)
    assert "".join(delta["content"] for delta in cut.deltas) == cut.content
    assert len(cut.deltas) == len(cut.token_ids)
    if any(end in free.content for end in stop):
        assert (cut.finish_reason, cut.stop_reason in stop) == ("stop", True)
    else:
        assert (cut.content, cut.stop_reason) == (free.content, None)


@given(prompts)
def test_a_tool_call_has_the_arguments_that_its_schema_wants(prompt):
    answer = plan(prompt, Wish(500, 40, forced_tool=WEATHER["function"]))
    (call,) = answer.tool_calls
    arguments = json.loads(call["function"]["arguments"])
    assert set(arguments) == {"city", "unit", "days"}
    assert arguments["unit"] in {"°C", "K"}
    assert isinstance(arguments["days"], int)
    assert answer.finish_reason == "tool_calls"


@given(prompts)
def test_a_streamed_tool_call_adds_up_to_the_whole_one(prompt):
    answer = plan(prompt, Wish(500, 40, forced_tool=WEATHER["function"]))
    pieces = [delta["tool_calls"][0]["function"] for delta in answer.deltas if delta]
    assert pieces[0] == {"name": "get_weather"}
    joined = "".join(piece["arguments"] for piece in pieces[1:])
    assert joined == answer.tool_calls[0]["function"]["arguments"]


@given(prompts)
def test_a_tool_call_in_the_history_is_the_same_ids_that_the_model_wrote(prompt):
    answer = plan(prompt, Wish(500, 40, forced_tool=WEATHER["function"]))
    turn = {"role": "assistant", "content": None, "tool_calls": list(answer.tool_calls)}
    rendered = tokens.encode(template.render([turn], None, generation_prompt=False))
    start = tokens.encode("<|im_start|>assistant\n")
    assert rendered[len(start) : len(start) + len(answer.token_ids)] == list(answer.token_ids)


def test_a_tool_call_that_is_cut_short_is_text():
    answer = plan([1], Wish(9, 40, forced_tool=WEATHER["function"]))
    assert answer.tool_calls == ()
    assert answer.content.startswith('<tool_call>{"name":')
    assert answer.finish_reason == "length"


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (None, ""),
        ("as it is", "as it is"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
    ],
)
def test_content_may_be_text_or_parts_or_nothing(content, shown):
    assert template.content_text(content) == shown
