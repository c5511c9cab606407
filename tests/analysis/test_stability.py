"""Where and why a prompt differs from the turn before it: on ids and texts of small templates."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.loss.stability import Around, TurnPair, around, explain
from exporter.model.session import BreakReason
from exporter.simulator.text import tokens

SYSTEM = "You are a careful engineer who reads before writing. " + " ".join(
    f"Rule number {n} is kept at all times." for n in range(20)
)
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"The tool {name} does {name}."}}
    for name in ("read_file", "search_text", "apply_patch", "run_tests")
]
MESSAGES = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "Customers say that the second page is wrong. Why is that?"},
]
ANSWER = "The cursor points at the wrong row, I believe, so look at paging first."
LATER = "Output of read_file: the cursor is the last row. What follows from it?"
PROMPT_END = "<|im_start|>assistant\n"


def block(role, text):
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def pair(earlier: str, later: str, answer: str = ANSWER) -> TurnPair:
    return TurnPair(
        turn=2,
        prompt=tuple(tokens.encode(earlier)),
        completion=tuple(tokens.encode(answer)),
        later=tuple(tokens.encode(later)),
    )


def told(two: TurnPair, *, with_text: bool = True, wordless: bool = False):
    index = two.first_difference()
    assert index is not None
    ids = around(two, index)
    text = Around(*map(tokens.decode, (ids.before, ids.earlier, ids.later)))
    return explain(two, index, text if with_text else None, MESSAGES, TOOLS, wordless=wordless)


def chatml(system=SYSTEM, tools="", answer=None, tail="", head=""):
    text = head + block("system", system + tools) + block("user", MESSAGES[1]["content"])
    if answer is not None:
        text += block("assistant", answer) + block("user", LATER)
    return text + PROMPT_END + tail


def test_a_template_that_appends_is_stable():
    assert pair(chatml(), chatml(answer=ANSWER)).first_difference() is None


def test_a_system_prompt_that_moves_into_the_last_user_message_is_found():
    question = MESSAGES[1]["content"]
    earlier = block("user", f"{SYSTEM}\n\n{question}") + PROMPT_END
    later = (
        block("user", question)
        + block("assistant", ANSWER)
        + block("user", f"{SYSTEM}\n\n{LATER}")
        + PROMPT_END
    )
    found = told(pair(earlier, later))
    assert found.reason is BreakReason.SYSTEM_PROMPT_MOVED
    assert (found.turn, found.message, found.role) == (2, 1, "system")
    assert found.before == "<|im_start|>user\n"
    assert found.earlier.startswith("You are a careful engineer")
    assert found.later.startswith("Customers say")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Today is 2026-11-24.", "Today is 2026-11-25."),
        ("The request is 7f3a91.", "The request is 01bc44d."),
        ("It is 9:59 now.", "It is 10:01:07 now."),
    ],
)
def test_a_value_that_changes_in_the_system_prompt_is_found_and_shown(one, other):
    found = told(pair(chatml(system=f"{one} {SYSTEM}"), chatml(f"{other} {SYSTEM}", answer=ANSWER)))
    assert found.reason is BreakReason.VALUE_CHANGED
    assert (found.message, found.role) == (1, "system")
    assert found.earlier != found.later


def test_tools_in_another_order_are_found():
    def listed(tools):
        return "\n# Tools\n" + "\n".join(json.dumps(tool, indent=1) for tool in tools)

    found = told(
        pair(chatml(tools=listed(TOOLS)), chatml(tools=listed(TOOLS[::-1]), answer=ANSWER))
    )
    assert found.reason is BreakReason.TOOLS_REORDERED
    assert (found.message, found.role) == (None, "tools")


@pytest.mark.parametrize("tail", ["", "<think>\n"])
def test_reasoning_that_the_history_leaves_out_is_found(tail):
    thought = "The rows are sorted, so the fault is in the cursor.\n</think>\n\n" + ANSWER
    said = thought if tail else "<think>\n" + thought
    found = told(pair(chatml(tail=tail), chatml(answer=ANSWER), answer=said))
    assert found.reason is BreakReason.REASONING_STRIPPED


def test_ids_alone_show_that_reasoning_before_an_answer_was_left_out():
    thought = "<think>\nThe rows are sorted, so it is the cursor.\n</think>\n\n"
    two = pair(chatml(), chatml(answer=ANSWER), answer=thought + ANSWER)
    assert told(two, with_text=False).reason is BreakReason.REASONING_STRIPPED


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize(
    ("tail", "said", "kept"),
    [  # the end of the generation prompt, the answer, and what the history has of it
        ("", "<think>\nThe rows are sorted, so the fault must be", ""),
        ("", "<think>\nThe rows are sorted, so the fault must be", "<think>\n\n</think>\n\n"),
        ("<think>\n", "The rows are sorted, so the fault must be", ""),
        ("<think>\n", "The rows are sorted, so the fault must be", "<think>\n\n</think>\n\n"),
        ("", "[THINK]The rows are sorted, so the fault must be", ""),
        ("", "The rows are sorted, so the fault must be", ""),
    ],
)
def test_an_answer_that_is_not_in_the_history_was_left_out(tail, said, kept, with_text):
    two = pair(chatml(tail=tail), chatml(answer=kept), answer=said)
    found = told(two, with_text=with_text, wordless=True)
    assert found.reason is BreakReason.ANSWER_LEFT_OUT


@pytest.mark.parametrize("wordless", [True, False])
def test_a_break_before_the_answer_is_found_without_a_look_at_the_answer(wordless):
    two = pair(chatml(system=f"It is 9:59 now. {SYSTEM}"), chatml(f"It is 10:01 now. {SYSTEM}"))
    assert told(two, wordless=wordless).reason is BreakReason.VALUE_CHANGED


def test_an_answer_that_encodes_to_other_ids_leaves_the_template_stable():
    two = pair(chatml(), chatml(answer=ANSWER))
    split = tuple(
        number for one in two.completion for number in tokens.encode(tokens.decode([one])[:2])
    )
    other = TurnPair(2, two.prompt, two.completion[:3] + split[3:], two.later)
    found = told(other)
    assert found.reason is BreakReason.COMPLETION_REENCODED
    assert (found.message, found.role) == (3, "assistant")


def test_an_earlier_message_that_changed_is_found():
    question = MESSAGES[1]["content"]
    later = (
        block("system", SYSTEM)
        + block("user", f"{question} [answered below, in full, by the assistant of this chat]")
        + block("assistant", ANSWER)
        + block("user", LATER)
        + PROMPT_END
    )
    found = told(pair(chatml(), later))
    assert found.reason in {BreakReason.HISTORY_REWRITTEN, BreakReason.VALUE_CHANGED}
    assert found.token_index > 100


def test_without_text_only_the_token_is_known_and_not_the_message():
    found = told(pair(chatml(system="A " + SYSTEM), chatml("B " + SYSTEM)), with_text=False)
    assert (found.message, found.role, found.earlier) == (None, None, None)
    assert found.token_index > 0


ids = st.lists(st.integers(0, 3), max_size=60).map(tuple)


@given(prompt=ids, completion=ids, later=ids)
def test_the_first_difference_is_where_the_later_prompt_parts(prompt, completion, later):
    two = TurnPair(2, prompt, completion, later)
    index = two.first_difference()
    sequence = prompt + completion
    if index is None:
        assert later[: len(sequence)] == sequence
    else:
        assert later[:index] == sequence[:index]
        assert later[index : index + 1] != sequence[index : index + 1]
        assert told_anyhow(two, index).token_index == index


def told_anyhow(two, index):
    return explain(two, index, None, MESSAGES, TOOLS)


@given(text=st.text(max_size=200), prompt=ids, later=ids)
def test_any_text_gives_a_break(text, prompt, later):
    two = TurnPair(2, prompt, (), later)
    index = two.first_difference()
    if index is not None:
        found = explain(two, index, Around(text, text, text), MESSAGES, TOOLS)
        assert found.reason in BreakReason
