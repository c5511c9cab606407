"""The users' times to first token: the engine's growth while the exporter sends nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publish_records import engine_view, failed_engine_view
from samples_page import Page, publish

from exporter.analysis.own_share import OwnShare
from exporter.metrics.state.users_ttft import UsersTtft
from exporter.model.engine import Histogram

BOUNDS = (0.5, 2.5)


class Scene:
    """An engine that counts the times of users and of the exporter, and is read now and then."""

    def __init__(self) -> None:
        self.users = UsersTtft()
        self.own = OwnShare()
        self.at = 100.0
        self.counts = [3.0, 4.0, 4.0]
        self.sum = 5.0

    def times(self, *seconds):
        for each in seconds:
            for place, bound in enumerate((*BOUNDS, float("inf"))):
                self.counts[place] += each <= bound
            self.sum += each

    def ask(self, seconds):
        """A request of the exporter, which the engine counts too."""
        self.times(seconds)
        self.own = self.own.plus(OwnShare(requests=1, last_ended_at=self.at + 1.0))

    def read(self, *, after=15.0, known=True, **histograms):
        self.at += after
        seen = {"ttft": Histogram(BOUNDS, tuple(self.counts), self.sum)} | histograms
        view = engine_view()
        view = replace(view, snapshot=replace(view.snapshot, at=self.at), histograms=seen)
        self.users.engine_scraped(view, self.own, known=known)
        return None if self.users.total is None else self.users.total.counts


@pytest.fixture
def scene():
    scene = Scene()
    assert scene.read() == (0, 0, 0)
    return scene


def test_what_the_engine_had_counted_before_is_not_that_of_users_of_this_exporter(scene):
    assert scene.users.total == Histogram(BOUNDS, (0, 0, 0), 0)


def test_times_between_two_scrapes_are_those_of_users(scene):
    scene.times(0.1, 1.0, 9.0)
    assert scene.read() == (1, 2, 3)
    assert scene.users.total.sum == pytest.approx(10.1)


def test_growth_with_a_request_of_the_exporter_counts_for_nobody(scene):
    scene.times(0.1)
    scene.ask(0.1)
    assert scene.read() == (0, 0, 0)
    scene.times(9.0)
    assert scene.read() == (0, 0, 1)


def test_growth_around_a_request_that_runs_counts_for_nobody(scene):
    scene.own = scene.own.plus(OwnShare(in_flight=1))
    scene.times(0.1)
    assert scene.read() == (0, 0, 0)
    scene.own = scene.own.plus(OwnShare(in_flight=-1, last_ended_at=scene.at + 5))
    scene.times(0.2)
    assert scene.read() == (0, 0, 0)
    scene.times(0.3)
    assert scene.read() == (1, 1, 1)


def test_a_scrape_right_after_a_request_waits_for_the_next(scene):
    """The engine may count the request's time a moment later."""
    scene.own = scene.own.plus(OwnShare(requests=1, last_ended_at=scene.at + 14.5))
    scene.read()
    scene.times(0.1)  # the exporter's own, counted late
    scene.read()
    scene.times(0.2)
    assert scene.read() == (1, 1, 1)


def test_growth_while_the_counters_may_be_of_another_engine_counts_for_nobody(scene):
    scene.times(0.1)
    scene.read(known=False)
    scene.times(0.1)
    assert scene.read() == (0, 0, 0)


def test_a_scrape_that_failed_or_lacks_the_histogram_loses_no_count(scene):
    scene.times(0.1)
    scene.read()
    scene.users.engine_scraped(failed_engine_view(), scene.own, known=True)
    scene.times(0.1)
    assert scene.read() == (2, 2, 2)
    scene.users.engine_scraped(replace(engine_view(), histograms={}), scene.own, known=True)
    scene.times(0.1)
    assert scene.read() == (2, 2, 2)


def test_other_buckets_begin_a_new_total(scene):
    scene.times(0.1)
    scene.read()
    other = Histogram((1.0,), (0.0, 0.0), 0.0)
    assert scene.read(ttft=other) == (0, 0)
    assert scene.read(ttft=Histogram((1.0,), (2.0, 3.0), 4.0)) == (2, 3)


def test_both_histograms_are_on_the_page(metrics):
    """The first reading of users is 0: nothing is known from before."""
    publish(metrics, engine_view())
    page = Page(metrics)
    assert page.value("vllm_engine_ttft_seconds_bucket", le="0.5") == 10
    assert page.value("vllm_engine_ttft_seconds_count") == 40
    assert page.value("vllm_engine_ttft_seconds_sum") == 44
    assert page.value("vllm_engine_users_ttft_seconds_bucket", le="2.5") == 0
    publish(metrics, failed_engine_view())
    assert not [name for name in Page(metrics).names if name.startswith("vllm_engine_ttft")]
    assert not [name for name in Page(metrics).names if "users_ttft" in name]


@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from([0.1, 1.0, 9.0]), max_size=4))))
def test_users_never_get_a_time_of_the_exporter(rounds):
    scene = Scene()
    scene.read()
    of_users = 0
    for own, seconds in rounds:
        scene.times(*seconds)
        if own:
            scene.ask(0.1)
        else:
            of_users += len(seconds)
        before = scene.users.total
        now = scene.read()
        assert all(new >= old for new, old in zip(now, before.counts, strict=True))
        if not own:
            continue
        assert now == before.counts
    assert scene.users.total.counts[-1] == of_users
