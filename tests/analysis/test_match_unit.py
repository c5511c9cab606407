"""The match unit, found from hits: what settles it, and what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.reuse.match_unit import Hit, match_unit

LABELS = st.sampled_from([1, 4, 16, 32, 128, 528])
REUSABLE = st.lists(st.integers(0, 60_000), max_size=12)


def served(unit, reusable):
    """What a sound cache with this unit serves."""
    return [Hit(tokens, tokens // unit * unit) for tokens in reusable]


def eagle(unit, reusable):
    """The same with the last unit of each hit dropped."""
    return [Hit(tokens, max(0, tokens // unit - 1) * unit) for tokens in reusable]


@pytest.mark.parametrize(
    ("label", "hits", "unit"),
    [
        (16, [], 16),
        (None, served(16, [1000, 1234, 1500]), None),
        (16, served(16, [1000]), 16),
        (16, served(528, [3000]), None),  # 16 and an eviction, or a larger unit
        (16, served(528, [3000, 3500]), None),
        (16, served(528, [3000, 3500, 4100]), 528),
        (4, served(256, [3000, 3500, 4100]), 256),
        (16, eagle(528, [3000, 3500, 4100]), 528),
        (16, eagle(16, [1000, 1050, 1100, 1130]), 16),
        (32, served(64, [1000, 1070, 1130, 1250]), 64),
        (16, [*served(528, [3000, 3500, 4100]), Hit(5000, 4992)], 16),  # refutes 528
        (528, served(16, [3000, 3500, 4100]), 16),
        (528, served(16, [3000]), None),  # no multiple of 528: the label is wrong
        (16, [Hit(3000, 160)], 16),  # mostly evicted: no unit explains it
        (16, [Hit(3000, 1600), Hit(3300, 1600), Hit(3600, 1600)], 16),
        (16, [Hit(3000, 0), Hit(3300, 0)], 16),
        (16, [Hit(3000, 2048), Hit(3300, 2048), Hit(4000, 2048)], 2048),  # one block fits
        (16, [Hit(3000, 1600, True), Hit(3050, 1600, True), Hit(3100, 1600, True)], 16),
        (16, [*served(528, [3000, 3500, 4100]), Hit(5000, 4000, True)], 16),
        (16, [*served(528, [3000, 3500, 4100]), Hit(5000, 528, True)], 528),
        (16, [*served(16, [1000, 1234, 1500]), Hit(2000, 1999)], None),  # an external store helped
    ],
)
def test_the_unit_is_what_explains_the_hits(label, hits, unit):
    assert match_unit(label, hits) == unit


@given(label=LABELS, reusable=REUSABLE)
def test_a_label_that_explains_the_hits_stays_the_unit(label, reusable):
    assert match_unit(label, served(label, reusable)) == label


@given(label=LABELS, factor=st.integers(1, 64), reusable=REUSABLE)
def test_the_unit_of_an_undisturbed_engine_explains_all_that_it_served(label, factor, reusable):
    hits = served(label * factor, reusable)
    unit = match_unit(label, hits)
    if unit is not None and unit != label:
        assert unit % (label * factor) == 0
        assert all(hit.cached % unit == 0 for hit in hits)
    if unit == label:
        # Only where the larger unit cannot be seen: nothing hit, or each hit as far as by label.
        assert all(hit.cached == 0 or not hit.short_of(label) for hit in hits)


@given(
    label=LABELS,
    factor=st.integers(2, 64),
    reusable=st.lists(st.integers(0, 60_000)),
    seed=st.randoms(),
)
def test_the_order_of_the_hits_does_not_matter(label, factor, reusable, seed):
    hits = served(label * factor, reusable)
    shuffled = list(hits)
    seed.shuffle(shuffled)
    assert match_unit(label, hits) == match_unit(label, shuffled)


@given(
    label=st.sampled_from([16, 32, 128]), reusable=st.lists(st.integers(5000, 60_000), min_size=3)
)
def test_one_hit_of_the_length_that_the_label_allows_disproves_a_larger_unit(label, reusable):
    full = Hit(7 * label + 3, 7 * label)
    hits = [*served(label * 4, reusable), full, Hit(11 * label, 11 * label)]
    assert match_unit(label, hits) == label
