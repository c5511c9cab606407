"""The rotation of sessions over data-parallel ranks."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from publish_records import snapshot

from exporter.analysis.hits.ranks import RankRotation
from exporter.model.engine import EngineSnapshot, Rank

LABELS = st.sets(st.integers(0, 40), min_size=2, max_size=8)


def of_ranks(*labels: int, tokens: float = 0.0) -> EngineSnapshot:
    return snapshot(ranks=len(labels), prompt_tokens_by_rank=dict.fromkeys(labels, tokens))


@given(st.integers(2, 8), st.integers(0, 20), st.integers(1, 5), st.integers(0, 99))
def test_each_rank_gets_as_many_sessions_as_the_others(ranks, first, rounds, start):
    shown = of_ranks(*range(first, first + ranks))
    rotation = RankRotation(pinned=True, first=start)
    given_ranks = [rotation.next(shown, "0.32.0") for _ in range(rounds * ranks)]
    assert Counter(given_ranks) == {Rank(first + n, n): rounds for n in range(ranks)}


@given(LABELS, st.data())
def test_a_rank_that_is_gone_is_never_given_again(labels, data):
    rotation, shown = RankRotation(pinned=True), of_ranks(*labels)
    gone = data.draw(st.sets(st.sampled_from(sorted(labels)), max_size=len(labels) - 1))
    rotation.next(shown, None)
    rotation.gone |= gone
    found = {rotation.next(shown, None) for _ in range(2 * len(labels))}
    assert {rank.label for rank in found if rank is not None} == labels - gone


@given(LABELS, LABELS)
def test_another_set_of_ranks_on_the_page_forgets_which_are_gone(before, after):
    rotation = RankRotation(pinned=True)
    rotation.next(of_ranks(*before), None)
    rotation.gone |= before
    found = {rotation.next(of_ranks(*after), None) for _ in after}
    assert None in found if before == after else {rank.label for rank in found} == after


def test_the_header_counts_the_ranks_of_this_server_alone():
    rotation = RankRotation(pinned=True)
    found = [rotation.next(of_ranks(4, 5), "0.32.0") for _ in range(2)]
    assert found == [Rank(label=4, index=0), Rank(label=5, index=1)]


def test_a_failed_reading_changes_nothing():
    rotation = RankRotation(pinned=True)
    assert rotation.next(of_ranks(0, 1), None) == Rank(0, 0)
    assert rotation.next(None, None) == Rank(1, 1)


def test_unpinned_one_rank_and_an_old_release_get_none():
    assert RankRotation().next(of_ranks(0, 1), "0.32.0") is None
    assert RankRotation(pinned=True).next(of_ranks(0), "0.32.0") is None
    assert RankRotation(pinned=True).next(of_ranks(0, 1), "0.13.0") is None
    assert RankRotation(pinned=True).next(of_ranks(0, 1), "0.14.0") == Rank(0, 0)
    assert RankRotation(pinned=True).next(None, "0.32.0") is None


def test_a_rank_whose_counter_lacks_what_was_sent_to_it_shows_that_the_header_does_nothing():
    rotation = RankRotation(pinned=True)
    rank, before = rotation.next(of_ranks(0, 1), None), of_ranks(0, 1, tokens=10.0)
    rotation.compare(rank, before, of_ranks(0, 1, tokens=110.0), 100)
    assert rotation.answering(rank, before) == 1
    rotation.compare(rank, before, of_ranks(0, 1, tokens=109.0), 100)
    assert rotation.answering(rank, before) == 2
    rotation.forget()
    assert rotation.answering(rank, before) == 1


def test_a_counter_that_fell_shows_nothing():
    rotation = RankRotation(pinned=True)
    rank = rotation.next(of_ranks(0, 1), None)
    rotation.compare(rank, of_ranks(0, 1, tokens=10.0), of_ranks(0, 1, tokens=5.0), 100)
    rotation.compare(rank, None, of_ranks(0, 1, tokens=5.0), 100)
    assert rotation.obeyed


def test_without_a_pinned_rank_any_rank_may_have_answered():
    rotation = RankRotation(pinned=True)
    assert rotation.answering(None, of_ranks(0, 1)) == 2
    assert rotation.answering(Rank(0, 0), None) is None
