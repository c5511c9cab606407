"""Cached tokens that no prefix cache can have served, and what is kept about one process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
from exporter.analysis.reuse.kv_transfer import counts_all_as_cached
from exporter.analysis.reuse.learning import Hints
from exporter.analysis.reuse.repeated_prompt import most_cached
from exporter.model.chat import Usage


def usage(prompt, cached):
    return Usage(prompt, 16, cached)


@pytest.mark.parametrize(
    ("prompt", "cached", "unit", "all_of_it"),
    [
        (2000, 1999, 16, True),
        (2000, 2000, 16, True),
        (2001, 2000, 16, True),  # also a multiple of the unit
        (2000, 1984, 16, True),  # all the units that a hit could have
        (2000, 1968, 16, False),
        (2000, 1999, None, True),
        (2000, 1984, None, False),
        (2000, 0, 16, False),
        (2000, None, 16, False),
        (1000, 528, 528, False),  # one unit, which a chat template's own head may fill
        (1000, 999, 528, True),
    ],
)
def test_nearly_all_of_a_new_prompt_is_no_hit(prompt, cached, unit, all_of_it):
    assert counts_all_as_cached(usage(prompt, cached), unit) is all_of_it
    knowledge = EngineKnowledge(Hints(unit))
    found = knowledge.usage_of_new_prompt(usage(prompt, cached))
    assert knowledge.transfers is all_of_it
    assert found.transferred is all_of_it
    assert found.cached_tokens == (None if all_of_it else cached)


def test_the_same_usage_of_a_prompt_that_was_sent_before_is_a_hit_until_transfers_are_known():
    knowledge = EngineKnowledge(Hints(16))
    repeated = usage(2000, 1999)  # an external store may have all but the last token
    assert knowledge.hits_only(repeated) is repeated
    knowledge.usage_of_new_prompt(usage(3000, 2999))
    assert knowledge.hits_only(repeated).cached_tokens is None
    assert knowledge.hits_only(usage(2000, 640)).cached_tokens == 640, "a hit of the node's own"


@given(prompt=st.integers(1, 9000), unit=st.sampled_from([1, 16, 528]), share=st.floats(0, 1))
def test_a_hit_on_the_head_of_the_template_is_no_transfer(prompt, unit, share):
    """Up to half of a prompt that spans more than three units."""
    cached = int(prompt / 2 * share) // unit * unit
    if prompt > 3 * unit and cached < most_cached(prompt, unit):
        assert not counts_all_as_cached(usage(prompt, cached), unit) or cached >= prompt - 1
