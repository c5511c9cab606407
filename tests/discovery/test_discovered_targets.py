"""A found target stays until the source answers without it for the grace period."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.discovery.targets.discovered_targets import DiscoveredTargets, TargetQuota

GRACE = 30.0


@dataclass(frozen=True)
class Found:
    name: str
    url: str = ""


def of(names: str) -> list[Found]:
    return [Found(name) for name in names]


def names(found) -> str:
    return "".join(each.name for each in found.targets)


@pytest.fixture
def found() -> DiscoveredTargets:
    return DiscoveredTargets("dns:vllm", GRACE, TargetQuota(100))


def test_a_missing_target_stays_for_the_grace_and_no_longer(found):
    found.update(of("ab"), 0)
    found.update(of("a"), 10)
    assert names(found) == "ab"
    found.update(of("a"), 10 + GRACE - 0.1)
    assert names(found) == "ab"
    found.update(of("a"), 10 + GRACE)
    assert names(found) == "a"


def test_a_target_that_comes_back_within_the_grace_was_never_gone(found):
    found.update(of("ab"), 0)
    found.update(of("a"), 20)
    found.update(of("ab"), 40)
    found.update(of("a"), 60)
    assert names(found) == "ab"
    found.update(of("a"), 60 + GRACE)
    assert names(found) == "a"


def test_time_without_an_answer_does_not_count_as_missing(found):
    found.update(of("ab"), 0)
    found.update(of("a"), 3600)  # the first answer in an hour
    assert names(found) == "ab"


def test_without_a_grace_a_missing_target_goes_at_once():
    found = DiscoveredTargets("dns:vllm", 0, TargetQuota(100))
    found.update(of("ab"), 0)
    assert [each.name for each in found.update(of("b"), 1)] == ["b"]


def test_a_target_without_a_known_address_keeps_its_place(found):
    found.update([Found("a", "http://a")], 0)
    found.update([], 10, unreachable={"a", "new"})
    assert found.update([], 10 + 10 * GRACE, unreachable={"a", "new"}) == (Found("a", "http://a"),)


def test_a_moved_target_changes_at_once_and_keeps_its_place(found):
    found.update([Found("a", "1"), Found("b")], 0)
    assert found.update([Found("b"), Found("a", "2")], 1) == (Found("a", "2"), Found("b"))


def test_above_the_limit_earlier_targets_come_first():
    found = DiscoveredTargets("dns:vllm", 0, TargetQuota(2))
    found.update(of("z"), 0)
    assert [each.name for each in found.update(of("abz"), 1)] == ["z", "a"]
    assert found.above_limit == 1
    found.update(of("ab"), 2)
    assert names(found) == "ab"
    assert found.above_limit == 0


def test_all_sources_share_one_limit():
    quota = TargetQuota(3)
    first, second = DiscoveredTargets("a", 0, quota), DiscoveredTargets("b", 0, quota)
    first.update(of("ab"), 0)
    second.update(of("xyz"), 0)
    assert (names(second), second.above_limit) == ("x", 2)
    first.update(of("a"), 1)
    second.update(of("xyz"), 1)
    assert (names(second), second.above_limit) == ("xy", 1)
    quota.forget("a")
    second.update(of("xyz"), 2)
    assert (names(second), second.above_limit) == ("xyz", 0)


ANSWERS = st.lists(
    st.tuples(st.floats(0.1, 50), st.lists(st.sampled_from("abcdef"), unique=True)), max_size=20
)


@given(answers=ANSWERS, limit=st.integers(1, 6), grace=st.sampled_from([0.0, 10.0, GRACE]))
def test_every_current_target_was_found_within_the_grace(answers, limit, grace):
    found = DiscoveredTargets("s", grace, TargetQuota(limit))
    now, seen = 0.0, {}  # name: the times of all answers since the target was last found
    for wait, answer in answers:
        now += wait
        found.update(of("".join(answer)), now)
        for times in seen.values():
            times.append(now)
        seen |= {name: [] for name in answer}
        standing = names(found)
        assert len(standing) == len(set(standing)) <= limit
        for name in standing:
            missing = seen[name]
            assert not missing or now - missing[0] < grace
        if limit == 6:  # there are only six names, so none is left out
            assert set(answer) <= set(standing)
