"""The statistics of paired differences, compared with brute force and with published tables."""

from __future__ import annotations

from itertools import product
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.paired import (
    ENOUGH_PAIRS,
    LEAST_PAIRS,
    difference,
    ecdf,
    holm,
    signed_rank_p,
    spread,
)

numbers = st.integers(-20, 20).map(float)


def brute_p(differences: list[float]) -> float:
    """Every choice of signs, with midranks counted out."""
    sizes = [abs(each) for each in differences if each]
    ranks = [
        sum(other < size for other in sizes) + (sum(other == size for other in sizes) + 1) / 2
        for size in sizes
    ]
    seen = sum(r for r, each in zip(ranks, [d for d in differences if d], strict=True) if each > 0)
    far = abs(seen - sum(ranks) / 2)
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in product((True, False), repeat=len(ranks))
    ]
    return sum(abs(each - sum(ranks) / 2) >= far - 1e-9 for each in sums) / len(sums)


@given(st.lists(numbers, max_size=9))
def test_p_is_the_share_of_all_sign_choices_that_are_as_far_from_even(differences):
    assert signed_rank_p(differences) == pytest.approx(brute_p(differences))


def test_five_pairs_on_one_side_are_no_proof_and_six_are():
    assert signed_rank_p([1.0, 2, 3, 4, 5]) == 0.0625
    assert signed_rank_p([1.0, 2, 3, 4, 5, 6]) == 0.03125
    assert difference([1.0] * (LEAST_PAIRS - 1)).p is None
    assert difference([1.0] * LEAST_PAIRS).p is not None


def test_enough_pairs_show_a_difference_although_one_went_the_other_way():
    others = [0.01 * number for number in range(1, ENOUGH_PAIRS)]
    assert signed_rank_p([-100.0, *others]) < 0.05
    assert signed_rank_p([-100.0, *others[:-1]]) > 0.05, "one pair fewer is not enough"


@pytest.mark.parametrize(("pairs", "left_out"), [(6, 0), (7, 2), (8, 3), (10, 8), (15, 25)])
def test_the_interval_is_that_of_the_published_table(pairs, left_out):
    """The critical values of the signed-rank test at 2.5 % a side (Wilcoxon's own table)."""
    differences = [float(2**place) for place in range(pairs)]
    means = sorted((a + b) / 2 for place, a in enumerate(differences) for b in differences[place:])
    told = difference(differences)
    assert (told.low, told.high) == (means[left_out], means[-1 - left_out])


@given(st.lists(numbers, min_size=1, max_size=12))
def test_the_estimate_lies_in_its_interval_and_among_the_differences(differences):
    told = difference(differences)
    assert min(differences) <= told.estimate <= max(differences)
    if told.low is not None:
        assert min(differences) <= told.low <= told.estimate <= told.high <= max(differences)
    assert told.pairs == len(differences)


@given(st.lists(numbers, min_size=1, max_size=12))
def test_swapping_the_sides_changes_the_sign_of_the_difference(differences):
    told, turned = difference(differences), difference([-each for each in differences])
    assert turned.estimate == -told.estimate
    assert turned.p == told.p
    if told.low is not None:
        assert (turned.low, turned.high) == (-told.high, -told.low)


@given(st.lists(numbers, min_size=1, max_size=12), st.permutations(range(12)))
def test_the_order_of_the_pairs_does_not_matter(differences, order):
    mixed = [differences[place] for place in order if place < len(differences)]
    assert difference(mixed) == difference(differences)


def test_one_wild_pair_does_not_move_the_estimate_far():
    calm = difference([10.0, 11, 12, 13, 14, 15, 16])
    wild = difference([10.0, 11, 12, 13, 14, 15, 5000])
    assert abs(wild.estimate - calm.estimate) <= 1


def test_without_a_pair_there_is_no_difference():
    assert difference([]) is None
    assert spread([]) is None


def test_no_difference_at_all_is_no_evidence():
    assert signed_rank_p([0.0] * 8) == 1.0
    assert difference([0.0] * 8).estimate == 0


@given(st.lists(st.none() | st.floats(0, 1), max_size=8))
def test_holm_only_makes_p_larger_and_keeps_their_order(ps):
    adjusted = holm(ps)
    assert [each is None for each in adjusted] == [each is None for each in ps]
    known = sorted((p, a) for p, a in zip(ps, adjusted, strict=True) if p is not None)
    assert all(p <= a <= 1 for p, a in known)
    assert [a for _, a in known] == sorted(a for _, a in known)


def test_holm_by_hand():
    assert holm([0.04, 0.01, None, 0.03]) == pytest.approx([0.06, 0.03, None, 0.06])
    assert holm([0.02]) == [0.02]


@given(st.lists(numbers, min_size=1))
def test_the_ecdf_climbs_to_one_and_counts_what_is_not_above(values):
    steps = ecdf(values)
    assert [value for value, _ in steps] == sorted(set(values))
    assert steps[-1][1] == 1
    for value, share in steps:
        assert share == pytest.approx(sum(each <= value for each in values) / len(values))


@given(st.lists(numbers, min_size=1))
def test_a_spread_is_the_median_with_half_of_the_values_around_it(values):
    told = spread(values)
    assert told.median == pytest.approx(median(values))
    assert told.lower_quartile <= told.median <= told.upper_quartile
    assert told.count == len(values)
