"""The share of users is the engine's growth minus the exporter's own share, or unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publish_records import engine_view, failed_engine_view, measured, session, turn
from samples_page import Page, publish

from exporter.analysis.own_share import OwnShare
from exporter.metrics.state.cost import Prices
from exporter.metrics.state.target import TargetState
from exporter.metrics.state.users_share import UsersShare
from exporter.model.engine import EngineTotals
from exporter.model.session import Loss, LossCause, Notice


class Scene:
    """An engine that counts what users and the exporter ask, and is read when the test says."""

    def __init__(self, metrics=None) -> None:
        self.share = UsersShare()
        self.own = OwnShare()
        self.at = 100.0
        self.queried, self.hit, self.saved = 7_000.0, 3_000.0, 3_000.0
        self.external = None
        self.more = {}
        self.metrics = metrics

    def users(self, queried, hit, *, external=0):
        self.queried += queried
        self.hit += hit
        self.saved += hit
        if self.external is not None:
            self.external += external

    def ask(self, queried, hit, *, settled=True, counted=True, says=None, external=0, split=True):
        """One request of the exporter's own; the answer may say other hits than there were.

        `external` tokens come from a store; if not `split`, that is not known.
        """
        if counted:
            self.users(queried, hit, external=external)
        cached = hit + external if says is None else says
        self.change(
            requests=1,
            settled=int(settled),
            queried_tokens=queried,
            prompt_tokens=queried,
            hit_tokens=cached if settled else 0,
            external_tokens=external if split else 0,
            unsplit=int(not split),
            last_ended_at=self.at,
        )

    def change(self, **fields):
        change = OwnShare(**fields)
        self.own = self.own.plus(change)
        if self.metrics is not None:
            self.metrics.targets["local"].own_share_changed(change)

    def read(self, after=15.0, **more):
        """A reading so many seconds later."""
        self.at += after
        self.more |= more
        totals = EngineTotals(
            queried_tokens=self.queried,
            hit_tokens=self.hit,
            saved_tokens=self.saved,
            external_hit_tokens=self.external,
        )
        view = engine_view(totals=totals, restarts=self.more.get("restarts", 0))
        snapshot = replace(view.snapshot, at=self.at, parts=self.more.get("parts", {}))
        rest = {key: self.more[key] for key in self.more if key not in ("restarts", "parts")}
        view = replace(view, snapshot=snapshot, **rest)
        if self.metrics is not None:
            publish(self.metrics, view)
        return self.share.engine_scraped(view, self.own)

    @property
    def sums(self):
        return self.share.queried_tokens, self.share.hit_tokens, self.share.saved_tokens


@pytest.fixture
def scene():
    scene = Scene()
    scene.read()
    return scene


def test_the_second_scrape_gives_the_first_growth(scene):
    assert scene.sums == (None, None, None)
    scene.users(1_000, 400)
    assert scene.read() == 400
    assert scene.sums == (1_000, 400, 400)


def test_an_engine_that_only_the_exporter_asks_has_no_users(scene):
    for _ in range(20):
        for queried, hit in ((2_000, 0), (2_500, 1_984), (3_000, 2_496)):
            scene.ask(queried, hit)
        assert scene.read() == 0
        assert scene.read() == 0
    assert scene.sums == (0, 0, 0)
    assert scene.share.hit_ratios() == {}


def test_the_exporters_own_share_is_left_out_of_sums_and_ratios(scene):
    for _ in range(4):
        scene.ask(10_000, 9_000)
        scene.users(1_000, 100)
        scene.read()
    assert scene.sums == (4_000, 400, 400)
    assert scene.share.hit_ratios() == {"1m": 0.1, "5m": 0.1, "1h": 0.1}


def test_a_scrape_during_an_own_prompt_gives_no_tokens_to_users(scene):
    scene.change(in_flight=1)
    scene.queried, scene.hit = scene.queried + 5_000, scene.hit + 4_000
    assert scene.read() is None
    assert scene.sums == (None, None, None)
    scene.change(in_flight=-1, requests=1, settled=1, queried_tokens=5_000, hit_tokens=4_000)
    scene.change(last_ended_at=scene.at)
    scene.saved += 4_000
    assert scene.read(after=0.5) is None, "vLLM may count a step after it sent the tokens"
    assert scene.read() == 0
    assert scene.sums == (0, 0, 0)


def test_a_page_is_as_old_as_the_start_of_its_scrape(scene):
    scene.ask(5_000, 4_000)
    view = engine_view(restarts=0)
    slow = replace(view.snapshot, at=scene.at + 3.0, scrape_seconds=2.5)
    assert scene.share.engine_scraped(replace(view, snapshot=slow), scene.own) is None
    assert scene.sums == (None, None, None)


def test_growth_around_a_request_of_unknown_tokens_does_not_count(scene):
    scene.users(1_000, 500)
    scene.read()
    scene.change(unknown=1, last_ended_at=scene.at)
    scene.users(3_000 + 700, 2_000)
    assert scene.read() is None
    assert scene.sums == (1_000, 500, 500)
    scene.users(100, 50)
    assert scene.read() == 50
    assert scene.sums == (1_100, 550, 550)


def test_unreported_own_hits_make_the_growth_unknown(scene):
    scene.ask(5_000, 4_000, settled=False)
    scene.users(1_000, 100)
    assert scene.read() is None
    assert scene.sums == (None, None, None)
    scene.users(1_000, 300)
    scene.read()
    assert scene.sums == (1_000, 300, 300)


def test_an_own_answer_settled_later_as_no_hit_is_known_then(scene):
    scene.ask(2_000, 0, settled=False)
    scene.change(settled=1)
    scene.users(1_000, 100)
    scene.read()
    assert scene.sums == (1_000, 100, 100)


def test_growth_over_a_restart_does_not_count(scene):
    scene.ask(5_000, 4_000, counted=False)
    scene.users(1_000, 500)
    assert scene.read(restarts=1) is None
    scene.users(1_000, 500)
    assert scene.read() == 500
    assert scene.sums == (1_000, 500, 500)


def test_open_lookups_are_awaited_and_left_out_lookups_do_not_count(scene):
    scene.users(4_000, 2_000)
    assert scene.read(lookups_open=True) is None
    assert scene.read(lookups_open=False) == 2_000
    scene.ask(5_000, 4_000)
    scene.queried, scene.hit = scene.queried - 5_000, scene.hit - 4_000  # left out of the totals
    assert scene.read(recounts=1) == 0, "the engine's own count of saved tokens has no part in it"
    assert scene.sums == (4_000, 2_000, 2_000)


def test_left_out_lookups_drop_the_ratios_of_their_windows(scene):
    """A cold prompt was admitted at once, and one that hits waited and was looked up again."""
    scene.read()
    scene.users(1_000, 0)
    scene.read(recounts=0)
    assert scene.share.hit_ratios() == {"1m": 0.0, "5m": 0.0, "1h": 0.0}
    scene.read(recounts=1)
    assert scene.share.hit_ratios() == {}
    scene.users(1_000, 500)
    scene.read()
    assert scene.share.hit_ratios()["1m"] == 0.5


def test_a_failed_scrape_between_two_changes_nothing(scene):
    scene.users(1_000, 500)
    assert scene.share.engine_scraped(failed_engine_view(), scene.own) is None
    assert scene.read() == 500


@pytest.mark.parametrize("state", [{"mixed": True}, {"parts": {(("pod", "a"),): None}}])
def test_several_engines_or_a_page_of_another_engine_are_unknown(scene, state):
    scene.users(1_000, 500)
    scene.read()
    scene.users(1_000, 500)
    assert scene.read(**state) is None
    assert scene.share.known is False
    assert scene.share.hit_ratios() == {}
    scene.users(1_000, 500)
    assert scene.read(mixed=False, parts={}) is None
    scene.users(1_000, 500)
    assert scene.read() == 500
    assert scene.sums == (2_000, 1_000, 1_000)


def test_counters_that_are_late_by_an_own_prompt_are_awaited(scene):
    scene.ask(5_000, 4_000, counted=False)
    assert scene.read() is None
    scene.users(5_000, 4_000)
    assert scene.read() == 0
    assert scene.sums == (0, 0, 0)
    assert scene.share.elsewhere_at is None


def test_counters_without_own_prompts_belong_to_another_engine(scene):
    for _ in range(6):
        scene.ask(5_000, 4_000, counted=False)
        scene.read()
    assert scene.share.elsewhere_at is not None
    assert scene.share.known is False
    assert scene.read(after=3_601) is None
    assert scene.share.known is True


def test_hits_that_a_gateway_hides_are_not_given_to_users(scene):
    scene.ask(5_000, 4_000, says=0)
    assert scene.read() is None
    scene.ask(5_000, 4_000, says=0)
    scene.users(50_000, 1_000)
    assert scene.read() is None
    assert scene.sums == (None, None, None)
    scene.users(1_000, 100)
    assert scene.read() == 100, "the exporter asked nothing then"
    scene.ask(5_000, 4_000)
    assert scene.read() == 0, "the answer reported its hits again"
    assert scene.sums == (1_000, 100, 100)


def test_hits_of_a_store_have_a_sum_of_their_own_and_save_nothing():
    scene = Scene()
    scene.external = 9_000.0
    scene.read()
    scene.users(100_000, 10_000, external=50_000)
    assert scene.read() == 10_000
    scene.ask(5_000, 1_000, external=3_000)
    scene.users(1_000, 800, external=100)
    assert scene.read() == 800
    assert scene.sums == (101_000, 10_800, 10_800)
    assert scene.share.external_tokens == 50_100
    assert scene.share.hit_ratios()["5m"] == pytest.approx(10_800 / 101_000)
    assert scene.share.effective_hit_ratios()["5m"] == pytest.approx(60_900 / 101_000)


def test_own_hits_of_an_unknown_tier_still_leave_the_hits_of_users_over_all_tiers():
    scene = Scene()
    scene.external = 0.0
    scene.read()
    scene.ask(5_000, 1_000, external=3_000, split=False)
    scene.users(1_000, 300, external=500)
    assert scene.read() is None
    assert scene.sums == (None, None, None)
    assert scene.share.external_tokens is None
    assert scene.share.effective_hit_ratios()["1m"] == 0.8


def test_without_a_store_the_hit_ratio_over_all_tiers_is_that_of_the_own_cache():
    scene = Scene()
    scene.external = 0.0
    scene.read()
    scene.ask(5_000, 4_000)
    scene.users(1_000, 400)
    scene.read()
    assert scene.share.effective_hit_ratios() == scene.share.hit_ratios()
    assert scene.share.hit_ratios()["1m"] == 0.4


def test_an_engine_that_does_not_count_external_hits_has_no_ratio_over_all_tiers(scene):
    scene.users(1_000, 400)
    scene.read()
    assert scene.share.effective_hit_ratios() == {}
    assert scene.share.external_tokens is None


def test_an_engine_without_one_of_the_counters_has_the_others(scene):
    scene.hit, scene.saved = None, None
    scene.queried += 1_000
    assert scene.read() is None
    assert scene.sums == (None, None, None)


STEP = st.tuples(
    st.sampled_from(["users", "own", "unknown", "unsettled", "restart", "elsewhere", "quick"]),
    st.integers(0, 5_000),
    st.integers(0, 5_000),
)


@given(st.lists(STEP, max_size=40))
def test_the_sums_never_fall_and_are_never_more_than_users_asked(steps):
    scene = Scene()
    scene.read()
    asked = used = 0
    last = (0.0, 0.0, 0.0)
    for what, queried, part in steps:
        hit = min(queried, part)
        if what == "users":
            scene.users(queried, hit)
            asked, used = asked + queried, used + hit
        elif what == "unknown":
            scene.users(queried, hit)
            scene.change(unknown=1, last_ended_at=scene.at)
        elif what == "restart":
            scene.more["restarts"] = scene.more.get("restarts", 0) + 1
        else:
            scene.ask(queried, hit, settled=what != "unsettled", counted=what != "elsewhere")
        scene.read(after=0.3 if what == "quick" else 15.0)
        sums = tuple(value or 0.0 for value in scene.sums)
        assert all(now >= before for now, before in zip(sums, last, strict=True))
        assert sums[0] <= asked
        assert sums[1] <= min(used, sums[0])
        assert sums[2] <= used
        last = sums


# On the page


def test_the_families_of_users_are_absent_until_they_are_known_and_when_they_are_not(metrics):
    scene = Scene(metrics)
    name = "vllm_engine_users_prefix_cache_queried_tokens_total"
    scene.read()
    assert Page(metrics).value(name) is None
    scene.users(1_000, 250)
    scene.read()
    page = Page(metrics)
    assert page.value(name) == 1_000
    assert page.value("vllm_engine_users_prefix_cache_hit_tokens_total") == 250
    assert page.value("vllm_engine_users_prefix_cache_hit_ratio", window="1m") == 0.25
    assert page.value("vllm_engine_users_tokens_saved_total") == 250
    scene.read(mixed=True)
    assert not [one for one in Page(metrics).names if "users" in one]


def test_savings_of_users_use_the_cost_known_at_that_time(metrics):
    metrics.targets["local"].cost.prices = Prices(price_per_hour=3.6, currency="EUR", watts=100.0)
    scene = Scene(metrics)
    scene.read()
    for result in measured():  # 200 µs per token
        publish(metrics, result)
    scene.ask(50_000, 40_000)
    scene.read()
    page = Page(metrics)
    assert page.value("vllm_engine_users_prefill_seconds_saved_total") == 0
    assert page.value("vllm_engine_prefill_seconds_saved_total") == pytest.approx(8.0)
    scene.users(20_000, 10_000)
    scene.read()
    page = Page(metrics)
    assert page.value("vllm_engine_users_prefill_seconds_saved_total") == pytest.approx(2.0)
    money = page.value("vllm_engine_users_prefill_cost_saved_total", currency="EUR")
    assert money == pytest.approx(0.002)
    joules = page.value("vllm_engine_users_prefill_energy_saved_joules_total")
    assert joules == pytest.approx(200.0)


def test_a_session_that_lost_unreported_tokens_shows_that_hits_are_hidden(metrics):
    lost = replace(turn(2, 1_250, 0, 992), loss=Loss(992, LossCause.UNREPORTED, "hidden"))
    scene = Scene(metrics)
    scene.read()
    publish(metrics, session(turn(1, 1_000, 0, 0), lost))
    scene.ask(5_000, 4_000, says=0)
    scene.users(50_000, 100)
    scene.read()
    assert Page(metrics).value("vllm_engine_users_prefix_cache_hit_tokens_total") is None


async def test_the_page_and_the_api_show_users_apart_from_the_probe(client, published):
    published.metrics.add(TargetState("local"))
    scene = Scene(published.metrics)
    scene.read()
    scene.ask(10_000, 9_000)
    scene.users(1_000, 250)
    scene.read()
    page = await (await client.get("/")).text()
    assert "Hit ratio of users, 5m" in page
    assert "Hit ratio with the probe&#39;s own requests, 1m" in page
    (target,) = (await (await client.get("/api/v1/targets")).json())["targets"]
    assert target["engine"]["users"] == {
        "queried_tokens": 1_000,
        "hit_tokens": 250,
        "saved_tokens": 250,
        "hit_ratios": {"1m": 0.25, "5m": 0.25, "1h": 0.25},
        "external_hit_tokens": None,
        "effective_hit_ratios": {},
    }


async def test_the_page_says_that_counters_are_of_another_engine(client, published):
    published.metrics.add(TargetState("local"))
    scene = Scene(published.metrics)
    for _ in range(8):
        scene.ask(5_000, 4_000, counted=False)
        scene.read()
    assert "the counters do not contain the prompts" in await (await client.get("/")).text()


@pytest.mark.parametrize("notice", [Notice.MIXED, Notice.TRANSFER])
def test_a_session_of_several_engines_or_transfers_makes_users_unknown(metrics, notice):
    scene = Scene(metrics)
    scene.read()
    scene.users(1_000, 250)
    scene.read()
    publish(metrics, session(turn(1, 1_000, 0, 0), notices=frozenset({notice})))
    scene.users(1_000, 900)
    scene.read()
    assert not [one for one in Page(metrics).names if "users" in one]
    publish(metrics, session(turn(1, 1_000, 0, 0)))
    scene.read()
    scene.users(1_000, 500)
    scene.read()
    hit = Page(metrics).value("vllm_engine_users_prefix_cache_hit_tokens_total")
    assert hit == 750
