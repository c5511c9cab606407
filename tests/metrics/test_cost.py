"""What the probe costs, what prefill costs, and what the cache saved: exact values, or none."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publish_records import (
    TURNS,
    engine_view,
    failed_engine_view,
    failed_session,
    measured,
    session,
)
from samples_page import Page, publish

from exporter.metrics.state.cost import CostState, Prices
from exporter.model.engine import EngineTotals
from exporter.model.probe import IsolationReading, PauseReason, RetentionReading, RetentionUnknown
from exporter.model.session import Control, ControlOutcome, Notice
from exporter.wording.session_json import session_json

COLD = Control(ControlOutcome.COLD, True, 1250, 32, 0.5)
SECOND = {"scenario": "coding-agent", "turn": "2"}


def session_with(control, **options):
    return session(TURNS[0], replace(TURNS[1], control=control), TURNS[2], **options)


def saved(tokens, restarts=0):
    return replace(engine_view(), totals=EngineTotals(saved_tokens=tokens), restarts=restarts)


def test_a_cold_control_shows_its_time_and_what_was_saved(metrics):
    publish(metrics, session_with(COLD))
    page = Page(metrics)
    assert page.value("vllm_probe_turn_cold_ttft_seconds", **SECOND) == 0.5
    assert page.value("vllm_probe_turn_ttft_saved_seconds", **SECOND) == 0.5 - 0.0625
    assert len(page.series("vllm_probe_turn_cold_ttft_seconds")) == 1
    assert page.value("vllm_probe_controls_total", outcome="cold") == 1
    assert page.value("vllm_probe_consumed_tokens_total") == 3 * 32 + 3750 + 1250 + 32
    assert page.value("vllm_probe_prompt_tokens_total") == 3750
    shown = session_json(session_with(COLD))["turns"][1]
    assert (shown["cold_ttft_seconds"], shown["ttft_saved_seconds"]) == (0.5, 0.4375)


@pytest.mark.parametrize(
    "outcome", [ControlOutcome.NOT_COLD, ControlOutcome.UNREPORTED, ControlOutcome.FAILED]
)
def test_a_control_that_was_not_cold_counts_for_nothing_but_its_outcome(metrics, outcome):
    publish(metrics, session_with(replace(COLD, outcome=outcome)))
    page = Page(metrics)
    assert page.series("vllm_probe_turn_cold_ttft_seconds") == {}
    assert page.series("vllm_probe_turn_ttft_saved_seconds") == {}
    assert page.value("vllm_probe_controls_total", outcome=str(outcome)) == 1
    assert page.value("vllm_probe_controls_total", outcome="cold") == 0


def test_the_cost_is_absent_until_it_is_significant_and_then_counts_growth_only(metrics):
    publish(metrics, saved(1_000_000.0))
    publish(metrics, measured()[0])
    publish(metrics, saved(2_000_000.0))
    page = Page(metrics)
    assert page.series("vllm_engine_prefill_seconds_per_token") == {}
    assert page.series("vllm_engine_prefill_seconds_saved_total") == {}
    for result in measured():
        publish(metrics, result)
    publish(metrics, saved(2_010_000.0))
    page = Page(metrics)
    assert page.value("vllm_engine_prefill_seconds_per_token") == pytest.approx(0.0002)
    assert page.value("vllm_engine_prefill_seconds_per_token_error") == pytest.approx(0, abs=1e-9)
    assert page.value("vllm_engine_prefill_floor_seconds") == pytest.approx(0.02)
    assert page.value("vllm_engine_prefill_seconds_saved_total") == pytest.approx(2.0)


def test_a_wedged_cache_has_no_retention(metrics):
    def known():
        return Page(metrics).series("vllm_probe_retention_ratio")

    publish(metrics, RetentionReading("local", 60.0, 1.0))
    assert known()
    publish(metrics, IsolationReading("local", leaked=None, wedged=True))
    publish(metrics, RetentionReading("local", 10.0, 0.0))
    assert known() == {}
    publish(metrics, IsolationReading("local", leaked=None, wedged=False))
    assert known() == {}, "it was measured while the cache was wedged"
    publish(metrics, RetentionReading("local", 10.0, 1.0))
    assert known()


def test_several_engines_behind_one_url_have_no_retention(metrics):
    def known():
        return Page(metrics).series("vllm_probe_retention_ratio")

    publish(metrics, RetentionReading("local", 60.0, 0.0))
    assert known()
    publish(metrics, session(*TURNS, notices=frozenset({Notice.MIXED})))
    publish(metrics, RetentionReading("local", 10.0, 0.0))
    assert known() == {}
    publish(metrics, session(*TURNS))
    publish(metrics, RetentionReading("local", 10.0, 1.0))
    assert known()


def test_a_restart_drops_the_retention(metrics):
    publish(metrics, saved(1.0, restarts=0))
    publish(metrics, RetentionReading("local", 60.0, 1.0))
    publish(metrics, saved(2.0, restarts=0))
    assert Page(metrics).series("vllm_probe_retention_ratio")
    publish(metrics, saved(3.0, restarts=1))
    assert Page(metrics).series("vllm_probe_retention_ratio") == {}


def test_savings_in_money_and_energy_need_a_price_and_watts(metrics):
    hour = an_hour_saved(metrics)
    next(hour)
    page = Page(metrics)
    assert page.value("vllm_engine_prefill_seconds_saved_total") == pytest.approx(3600)
    assert page.series("vllm_engine_prefill_energy_saved_joules_total") == {}
    assert page.series("vllm_engine_prefill_cost_saved_total") == {}
    metrics.targets["local"].cost.prices = Prices(2.5, "EUR", 400.0)
    assert money_and_joules(metrics) == {"EUR": 0, "joules": 0}, "what was before has no price"
    next(hour)
    assert money_and_joules(metrics) == {"EUR": 2.5, "joules": 1_440_000}


def test_a_new_price_counts_from_then_on_and_no_counter_falls(metrics):
    hour = an_hour_saved(metrics)
    metrics.targets["local"].cost.prices = Prices(2.0, "EUR", 400.0)
    next(hour)
    assert money_and_joules(metrics) == {"EUR": 2.0, "joules": 1_440_000}
    metrics.targets["local"].cost.prices = Prices(1.0, "EUR", 200.0)
    assert money_and_joules(metrics) == {"EUR": 2.0, "joules": 1_440_000}
    next(hour)
    assert money_and_joules(metrics) == {"EUR": 3.0, "joules": 2_160_000}


def test_money_of_one_currency_is_never_counted_as_another(metrics):
    hour = an_hour_saved(metrics)
    metrics.targets["local"].cost.prices = Prices(2.0, "EUR")
    next(hour)
    metrics.targets["local"].cost.prices = Prices(3.0, "USD")
    next(hour)
    assert money_and_joules(metrics) == {"USD": 3.0}
    metrics.targets["local"].cost.prices = Prices()
    next(hour)
    assert money_and_joules(metrics) == {}, "without a price nobody knows"
    metrics.targets["local"].cost.prices = Prices(2.0, "EUR")
    assert money_and_joules(metrics) == {"EUR": 2.0}, "and it goes on where it was"


def an_hour_saved(metrics):
    """Each step saves an hour of prefill more."""
    publish(metrics, saved(0.0))
    for result in measured():
        publish(metrics, result)
    for hours in itertools.count(1):
        publish(metrics, saved(18_000_000.0 * hours))
        yield


def money_and_joules(metrics):
    """The counters by currency, and "joules", rounded; what is absent is left out."""
    found = {
        dict(labels)["currency"]: round(value, 6)
        for labels, value in Page(metrics).series("vllm_engine_prefill_cost_saved_total").items()
    }
    joules = Page(metrics).value("vllm_engine_prefill_energy_saved_joules_total")
    return found if joules is None else found | {"joules": round(joules, 3)}


def test_each_growth_counts_at_the_cost_of_its_time():
    state = CostState()
    state.engine_scraped(saved(0.0))
    for result in measured(0.0002):
        state.session_finished(result)
    state.engine_scraped(saved(10_000.0))
    assert state.saved.seconds == pytest.approx(2.0)
    for result in measured(0.0004, sessions=40):
        state.session_finished(result)
    assert state.saved.seconds == pytest.approx(2.0)
    state.engine_scraped(saved(20_000.0))
    assert state.saved.seconds == pytest.approx(6.0)


def test_another_process_or_model_is_measured_again():
    state = CostState()
    state.engine_scraped(saved(0.0))
    for result in measured():
        state.session_finished(result)
    state.engine_scraped(saved(0.0))
    assert state.prefill is not None
    state.engine_scraped(saved(0.0, restarts=1))
    assert state.prefill is None
    for result in measured():
        state.session_finished(result)
    assert state.prefill is not None
    state.session_finished(replace(measured()[0], model="another"))
    assert state.prefill is None


@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(0, 1e9)), st.integers(0, 3))))
def test_the_seconds_saved_never_fall(scrapes):
    state, last = CostState(), 0.0
    for total, restarts in scrapes:
        for result in measured():
            state.session_finished(result)
        state.engine_scraped(saved(total, restarts))
        assert (state.saved.seconds or 0.0) >= last
        last = state.saved.seconds or 0.0


def test_a_failed_session_takes_the_cost_and_a_failed_scrape_the_savings_away(metrics):
    publish(metrics, saved(0.0))
    for result in measured():
        publish(metrics, result)
    publish(metrics, saved(1000.0))
    publish(metrics, failed_session())
    page = Page(metrics)
    assert page.series("vllm_engine_prefill_seconds_per_token") == {}
    assert page.value("vllm_engine_prefill_seconds_saved_total") == pytest.approx(0.2)
    publish(metrics, failed_engine_view())
    assert Page(metrics).series("vllm_engine_prefill_seconds_saved_total") == {}


def test_the_probe_waits_for_one_reason_or_none(metrics):
    assert Page(metrics).series("vllm_probe_paused") == {}
    metrics.targets["local"].admission_checked(PauseReason.QUEUE)
    page = Page(metrics)
    assert page.value("vllm_probe_paused", reason="queue") == 1
    assert page.value("vllm_probe_paused", reason="usage") == 0
    assert page.value("vllm_probe_paused", reason="budget") == 0
    metrics.targets["local"].admission_checked(None)
    assert set(Page(metrics).series("vllm_probe_paused").values()) == {0}


def test_the_budget_is_shown_unless_there_is_none(metrics):
    metrics.targets["local"].cost.budget_tokens_per_hour = 10_000
    assert Page(metrics).value("vllm_probe_budget_tokens_per_hour") == 10_000
    metrics.targets["local"].cost.budget_tokens_per_hour = None
    assert Page(metrics).series("vllm_probe_budget_tokens_per_hour") == {}


def test_retention_is_shown_by_gap_and_absent_when_unknown(metrics):
    publish(metrics, RetentionReading("local", 0.5, 1.0))
    publish(metrics, RetentionReading("local", 300.0, 0.25))
    page = Page(metrics)
    assert page.value("vllm_probe_retention_ratio", gap_seconds="0.5") == 1
    assert page.value("vllm_probe_retention_ratio", gap_seconds="300") == 0.25
    publish(metrics, RetentionReading("local", 300.0, None, RetentionUnknown.LATE))
    page = Page(metrics)
    assert page.value("vllm_probe_retention_ratio", gap_seconds="300") is None
    assert page.value("vllm_probe_retention_ratio", gap_seconds="0.5") == 1


def test_a_gap_that_is_no_longer_measured_has_no_value(metrics):
    publish(metrics, RetentionReading("local", 0.5, 1.0))
    publish(metrics, RetentionReading("local", 300.0, 0.25))
    metrics.targets["local"].cost.keep_retention((300.0, 600.0))
    page = Page(metrics)
    assert page.value("vllm_probe_retention_ratio", gap_seconds="0.5") is None
    assert page.value("vllm_probe_retention_ratio", gap_seconds="300") == 0.25


def test_tokens_of_no_session_count_as_consumed(metrics):
    metrics.targets["local"].tokens_consumed(0)
    assert Page(metrics).series("vllm_probe_consumed_tokens_total") == {}
    metrics.targets["local"].tokens_consumed(129)
    assert Page(metrics).value("vllm_probe_consumed_tokens_total") == 129
