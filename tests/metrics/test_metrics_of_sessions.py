"""Sessions, isolation and retention: records in, exact samples out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from publish_records import (
    STARTED,
    TURNS,
    UNSTABLE,
    engine_view,
    failed_engine_view,
    failed_session,
    session,
    turn,
)
from samples_page import Page, page_text, publish

from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.model.failure import FailureReason
from exporter.model.probe import IsolationReading
from exporter.model.reuse import ReuseRule, RuleCause
from exporter.model.session import Loss, LossCause, Notice


def test_a_finished_session_shows_every_turn(metrics):
    publish(metrics, session(*TURNS))
    page = Page(metrics)
    third = {"scenario": "coding-agent", "turn": "3"}
    assert page.value("vllm_probe_up") == 1
    assert page.value("vllm_probe_turn_hit_ratio", **third) == 1024 / 1500
    assert page.value("vllm_probe_turn_ideal_hit_ratio", **third) == 1280 / 1500
    assert page.value("vllm_probe_turn_attainable_hit_ratio", **third) == 1280 / 1500
    assert page.value("vllm_probe_turn_efficiency_ratio", **third) == 0.8
    assert page.value("vllm_probe_turn_tokens_saved", **third) == 1024
    assert page.value("vllm_probe_turn_prompt_tokens", **third) == 1500
    assert page.value("vllm_probe_turn_completion_tokens", **third) == 32
    assert page.value("vllm_probe_turn_ttft_seconds", **third) == 0.125
    assert page.value("vllm_probe_turn_latency_seconds", **third) == 1.5
    assert page.value("vllm_probe_session_duration_seconds") == 8
    assert page.value("vllm_probe_last_success_timestamp_seconds") == STARTED + 8
    assert len(page.series("vllm_probe_turn_hit_ratio")) == 3
    # A first turn's ideal is 0, so it has no efficiency.
    assert len(page.series("vllm_probe_turn_efficiency_ratio")) == 2


def test_sessions_add_up_in_the_counters(metrics):
    for _ in range(2):
        publish(metrics, session(*TURNS))
    publish(metrics, failed_session(*TURNS[:2]))
    page = Page(metrics)
    assert page.value("vllm_probe_sessions_total") == 3
    assert page.value("vllm_probe_session_failures_total", reason="connection_refused") == 1
    assert page.value("vllm_probe_session_failures_total", reason="stalled") == 0
    assert page.value("vllm_probe_prompt_tokens_total") == 2 * 3750 + 2250
    assert page.value("vllm_probe_cached_tokens_total") == 2 * 2016 + 992
    assert page.value("vllm_probe_ideal_cached_tokens_total") == 2 * 2272 + 992
    assert page.value("vllm_probe_attainable_cached_tokens_total") == 2 * 2272 + 992
    assert page.value("vllm_probe_completion_tokens_total") == 8 * 32
    assert page.value("vllm_probe_consumed_tokens_total") == 2 * 3750 + 2250 + 8 * 32
    assert page.value("vllm_probe_lost_tokens_total", cause="unexplained") == 512
    assert page.value("vllm_probe_lost_tokens_total", cause="disabled") == 0


def test_pinned_sessions_add_up_by_rank_with_both_parts_of_the_same_turns(metrics):
    publish(metrics, session(*TURNS, data_parallel_rank=4))
    publish(metrics, session(*TURNS, data_parallel_rank=4))
    publish(metrics, failed_session(*TURNS[:2]))
    publish(metrics, session(*TURNS[:2], data_parallel_rank=5))
    page = Page(metrics)
    attainable, cached = (
        f"vllm_probe_rank_{part}_total" for part in ("attainable_cached_tokens", "cached_tokens")
    )
    assert page.value(attainable, data_parallel_rank="4") == 2 * 2272
    assert page.value(cached, data_parallel_rank="4") == 2 * 2272 - 512
    assert page.value(attainable, data_parallel_rank="5") == 992
    assert len(page.series(attainable)) == len(page.series(cached)) == 2


def test_unpinned_sessions_have_no_rank(metrics):
    publish(metrics, session(*TURNS))
    assert Page(metrics).series("vllm_probe_rank_cached_tokens_total") == {}


def test_times_go_into_histograms_by_the_temperature_of_the_cache(metrics):
    publish(metrics, session(*TURNS, turn(4, 1700, None, None, ttft=3.0)))
    page = Page(metrics)
    assert page.value("vllm_probe_ttft_seconds_count", cache="cold") == 1
    assert page.value("vllm_probe_ttft_seconds_sum", cache="cold") == 0.5
    assert page.value("vllm_probe_ttft_seconds_bucket", cache="cold", le="0.25") == 0
    assert page.value("vllm_probe_ttft_seconds_bucket", cache="cold", le="0.5") == 1
    assert page.value("vllm_probe_ttft_seconds_count", cache="warm") == 2
    assert page.value("vllm_probe_ttft_seconds_sum", cache="warm") == 0.1875
    assert page.value("vllm_probe_ttft_seconds_bucket", cache="warm", le="+Inf") == 2
    assert page.value("vllm_probe_ttft_seconds_count", cache="unknown") == 1
    assert page.value("vllm_probe_inter_token_seconds_count") == 3
    assert page.value("vllm_probe_inter_token_seconds_sum") == pytest.approx(0.04)
    assert page.value("vllm_probe_inter_token_seconds_bucket", le="0.01") == 2


def test_a_time_beyond_every_bound_counts_only_in_the_last_bucket(metrics):
    publish(metrics, session(turn(1, 1000, 0, 0, ttft=1e4)))
    page = Page(metrics)
    assert page.value("vllm_probe_ttft_seconds_bucket", cache="cold", le="160.0") == 0
    assert page.value("vllm_probe_ttft_seconds_bucket", cache="cold", le="+Inf") == 1


def test_a_failed_session_takes_the_last_sessions_values_away(metrics):
    publish(metrics, session(*TURNS, notices=frozenset({Notice.SIMULATED})))
    publish(metrics, failed_session(*TURNS[:2], reason=FailureReason.STALLED))
    page = Page(metrics)
    assert page.value("vllm_probe_up") == 0
    assert not {name for name in page.names if name.startswith("vllm_probe_turn_")}
    assert "vllm_probe_session_duration_seconds" not in page.names
    assert "vllm_probe_notice" not in page.names
    assert page.value("vllm_probe_last_success_timestamp_seconds") == STARTED + 8
    publish(metrics, session(*TURNS))
    assert len(Page(metrics).series("vllm_probe_turn_hit_ratio")) == 3


def test_a_shorter_session_leaves_no_turn_of_a_longer_one_behind(metrics):
    publish(metrics, session(*TURNS))
    publish(metrics, session(*TURNS[:1]))
    assert len(Page(metrics).series("vllm_probe_turn_prompt_tokens")) == 1


def test_before_the_first_session_only_true_zeros_are_there(metrics):
    page = Page(metrics)
    zero = {name for name in page.names if name.startswith("vllm_probe")}
    assert page.value("vllm_probe_sessions_total") == 0
    assert len(page.series("vllm_probe_session_failures_total")) == len(FailureReason)
    assert {name.removesuffix("_total") for name in zero if name.endswith("_total")} == {
        "vllm_probe_sessions",
        "vllm_probe_session_failures",
        "vllm_probe_controls",
        "vllm_probe_isolation_tests",
        "vllm_probe_isolation_leaks",
    }
    assert "vllm_probe_up" not in page.names
    assert "vllm_engine_up" not in page.names
    assert "vllm_container_state" not in page.names


def test_without_cached_tokens_there_is_no_ratio_and_no_zero(metrics):
    publish(
        metrics,
        session(
            turn(1, 1000, None, 0),
            turn(2, 1250, None, 992),
            notices=frozenset({Notice.USAGE_DETAILS_MISSING}),
        ),
    )
    page = Page(metrics)
    assert page.value("vllm_probe_up") == 1
    for name in ("hit_ratio", "efficiency_ratio", "tokens_saved"):
        assert f"vllm_probe_turn_{name}" not in page.names
    for name in ("prompt", "cached", "ideal_cached", "lost"):
        assert f"vllm_probe_{name}_tokens_total" not in page.names
    assert page.value("vllm_probe_consumed_tokens_total") == 2250 + 64
    assert page.value("vllm_probe_notice", notice="usage_details_missing") == 1


def test_a_session_without_cached_tokens_does_not_lower_the_ratio_of_the_counters(metrics):
    publish(metrics, session(*TURNS))
    before = Page(metrics)
    publish(metrics, session(turn(1, 1000, None, 0), turn(2, 1250, None, 992)))
    after = Page(metrics)
    for name in ("prompt", "cached", "ideal_cached"):
        whole = f"vllm_probe_{name}_tokens_total"
        assert after.value(whole) == before.value(whole)
    assert after.value("vllm_probe_consumed_tokens_total") == 3750 + 96 + 2250 + 64


def test_a_session_without_ideals_does_not_change_the_efficiency_of_the_counters(metrics):
    publish(metrics, session(*TURNS))
    publish(metrics, session(turn(1, 1000, 0, 0), turn(2, 1250, 992, None)))
    page = Page(metrics)
    lost = sum(page.series("vllm_probe_lost_tokens_total").values())
    assert 1 - lost / page.value("vllm_probe_ideal_cached_tokens_total") == 1 - 256 / 2272


def test_without_ideals_the_lost_tokens_are_absent(metrics):
    publish(metrics, session(turn(1, 1000, 0, 0), turn(2, 1250, 992, None)))
    page = Page(metrics)
    assert "vllm_probe_lost_tokens_total" not in page.names
    assert "vllm_probe_ideal_cached_tokens_total" not in page.names


def test_losses_are_counted_under_their_cause(metrics):
    publish(metrics, session(turn(2, 1250, 0, 992, cause=LossCause.DISABLED)))
    page = Page(metrics)
    assert page.value("vllm_probe_lost_tokens_total", cause="disabled") == 992
    assert page.value("vllm_probe_lost_tokens_total", cause="restart") == 0


# An EAGLE engine: each hit lacks 16 tokens. Turn 3 lost 240 more to others.
EAGLE_TURNS = (
    turn(1, 1000, 0, 0),
    turn(2, 1250, 976, 992, gives_up=16),
    turn(3, 1500, 1024, 1280, gives_up=16, cause=LossCause.EVICTED),
)


def test_what_the_reuse_rule_gives_up_has_causes_of_its_own_and_is_no_loss(metrics):
    publish(metrics, session(*EAGLE_TURNS))
    page, third = Page(metrics), {"scenario": "coding-agent", "turn": "3"}
    assert page.value("vllm_probe_ideal_cached_tokens_total") == 2272
    assert page.value("vllm_probe_attainable_cached_tokens_total") == 2272 - 32
    lost = {dict(k)["cause"]: v for k, v in page.series("vllm_probe_lost_tokens_total").items()}
    assert set(lost) == {*LossCause, *RuleCause}
    assert {cause: tokens for cause, tokens in lost.items() if tokens} == {
        "speculative_decoding": 32,
        "evicted": 240,
    }
    assert page.value("vllm_probe_turn_ideal_hit_ratio", **third) == 1280 / 1500
    assert page.value("vllm_probe_turn_attainable_hit_ratio", **third) == 1264 / 1500
    assert page.value("vllm_probe_turn_efficiency_ratio", **third) == 1024 / 1264


def test_while_the_reuse_rule_is_unknown_hits_say_nothing_of_efficiency(metrics):
    publish(metrics, session(turn(1, 1000, 0, 0), turn(2, 1250, 976, 992, gives_up=None)))
    page = Page(metrics)
    assert page.value("vllm_probe_cached_tokens_total") == 976
    for name in ("ideal_cached_tokens_total", "attainable_cached_tokens_total"):
        assert f"vllm_probe_{name}" not in page.names
    assert "vllm_probe_lost_tokens_total" not in page.names
    second = {"scenario": "coding-agent", "turn": "2"}
    assert page.value("vllm_probe_turn_attainable_hit_ratio", **second) is None
    assert page.value("vllm_probe_turn_efficiency_ratio", **second) is None
    assert page.value("vllm_probe_turn_ideal_hit_ratio", **second) == 992 / 1250


def never_hit(index: int, prompt: int, ideal: int):
    return turn(index, prompt, 0, ideal, gives_up=None, cause=LossCause.NEVER_HIT)


def test_a_loss_that_no_rule_can_explain_counts_while_the_rule_is_unknown(metrics):
    publish(
        metrics, session(turn(1, 1000, 0, 0), never_hit(2, 1250, 992), never_hit(3, 1500, 1280))
    )
    page = Page(metrics)
    for name in ("ideal_cached_tokens_total", "attainable_cached_tokens_total"):
        assert page.value(f"vllm_probe_{name}") == 2272
    assert page.value("vllm_probe_lost_tokens_total", cause="never_hit") == 2272


def test_such_a_loss_does_not_count_beside_hits_of_an_unknown_share(metrics):
    hit = turn(3, 1500, 1264, 1280, gives_up=None)
    lost = turn(2, 1250, 0, 992, gives_up=None, cause=LossCause.RESTART)
    publish(metrics, session(turn(1, 1000, 0, 0), lost, hit))
    page = Page(metrics)
    assert page.value("vllm_probe_cached_tokens_total") == 1264
    assert "vllm_probe_lost_tokens_total" not in page.names, "the efficiency would be 0"


RULE = ReuseRule(unit_tokens=16, dropped_blocks=1, answers_kept=None, lookahead_tokens=0)


def rule_labels(metrics) -> list[dict[str, str]]:
    return [dict(labels) for labels in Page(metrics).series("vllm_engine_reuse_rule")]


def test_the_learned_reuse_rule_has_its_parts_as_labels_and_open_ones_are_empty(metrics):
    publish(metrics, engine_view())
    publish(metrics, session(*EAGLE_TURNS, reuse_rule=RULE))
    parts = {"unit_tokens": "16", "dropped_blocks": "1", "answers_kept": ""}
    assert rule_labels(metrics) == [{"target": "local", **parts, "lookahead_tokens": "0"}]
    publish(metrics, session(*EAGLE_TURNS, reuse_rule=replace(RULE, answers_kept=False)))
    assert [labels["answers_kept"] for labels in rule_labels(metrics)] == ["false"]


@pytest.mark.parametrize(
    "gone",
    [
        session(*TURNS),
        failed_session(*TURNS, reason=FailureReason.CONNECTION_REFUSED),
        replace(failed_session(*TURNS), reuse_rule=RULE),
        engine_view(restarts=2),
        failed_engine_view(),
    ],
    ids=["no rule any more", "target fails", "with a rule", "restarted", "not scraped"],
)
def test_the_reuse_rule_goes_when_it_is_not_known_any_more(metrics, gone):
    publish(metrics, engine_view(restarts=1))
    publish(metrics, session(*EAGLE_TURNS, reuse_rule=RULE))
    assert rule_labels(metrics)
    publish(metrics, gone)
    assert rule_labels(metrics) == []


def test_a_scenario_that_fails_by_itself_says_nothing_of_the_reuse_rule(metrics):
    publish(metrics, engine_view())
    publish(metrics, session(*EAGLE_TURNS, reuse_rule=RULE))
    publish(metrics, failed_session(scenario="other", reason=FailureReason.PROMPT_TOO_LONG))
    assert rule_labels(metrics)


def test_turns_above_the_limit_have_no_series_and_count_all_the_same():
    metrics = Metrics(turn_label_limit=2)
    metrics.add(TargetState("local"))
    publish(metrics, session(*TURNS))
    page = Page(metrics)
    shown = {dict(labels)["turn"] for labels in page.series("vllm_probe_turn_hit_ratio")}
    assert shown == {"1", "2"}
    assert page.value("vllm_probe_prompt_tokens_total") == 3750


def test_a_prefix_is_stable_unstable_or_not_known_and_its_text_stays_out(metrics):
    scenario = {"scenario": "coding-agent"}
    publish(metrics, session(*TURNS))
    assert Page(metrics).value("vllm_probe_prefix_stable", **scenario) == 1
    publish(metrics, session(*TURNS, prefix=UNSTABLE))
    assert Page(metrics).value("vllm_probe_prefix_stable", **scenario) == 0
    assert "careful" not in page_text(metrics)
    publish(metrics, session(*TURNS, prefix=None))
    assert Page(metrics).series("vllm_probe_prefix_stable") == {}
    publish(metrics, session(*TURNS))
    publish(metrics, failed_session(*TURNS))
    assert Page(metrics).series("vllm_probe_prefix_stable") == {}


@pytest.mark.parametrize(
    ("turns", "value"),
    [
        (TURNS, 0),
        ((turn(1, 1000, 0, 0), turn(2, 1250, 0, 992, cause=LossCause.WEDGED)), 1),
        ((turn(2, 1250, 0, 992, cause=LossCause.WEDGED), turn(3, 1500, 992, 992)), 0),
        ((turn(1, 1000, 0, 0), turn(2, 1250, 0, 992, cause=LossCause.EVICTED)), None),
        ((turn(1, 1000, None, 0), turn(2, 1250, None, 992)), None),
    ],
)
def test_a_cache_is_wedged_not_wedged_or_not_known(metrics, turns, value):
    publish(metrics, session(*turns))
    assert Page(metrics).value("vllm_probe_cache_wedged") == value


def test_hidden_hits_are_a_loss_and_no_misses(metrics):
    hidden = replace(turn(2, 1250, None, 992), loss=Loss(992, LossCause.UNREPORTED, "hidden"))
    publish(metrics, session(turn(1, 1000, 0, 0), hidden))
    page = Page(metrics)
    assert page.value("vllm_probe_lost_tokens_total", cause="unreported") == 992
    assert page.value("vllm_probe_ideal_cached_tokens_total") == 992
    assert page.value("vllm_probe_prompt_tokens_total") == 1000
    assert page.value("vllm_probe_turn_hit_ratio", scenario="coding-agent", turn="2") is None
    assert page.value("vllm_probe_ttft_seconds_count", cache="cold") == 1


def test_isolation_tests_with_a_result_and_leaks_are_counted(metrics):
    def counts():
        page = Page(metrics)
        names = ("vllm_probe_isolation_tests_total", "vllm_probe_isolation_leaks_total")
        return tuple(page.value(name) for name in names)

    assert counts() == (0, 0)
    for leaked in (False, True, None, True):
        publish(metrics, IsolationReading("local", leaked=leaked, wedged=None))
    assert counts() == (3, 2)


def test_the_last_test_with_a_result_decides_whether_the_cache_is_wedged(metrics):
    def said():
        return Page(metrics).value("vllm_probe_cache_wedged")

    publish(metrics, session(*TURNS))
    publish(metrics, IsolationReading("local", leaked=None, wedged=True))
    assert said() == 1
    publish(metrics, IsolationReading("local", leaked=None, wedged=None))
    assert said() == 1
    publish(metrics, session(turn(1, 1000, None, 0), turn(2, 1250, None, 992)))
    assert said() == 1, "a session without cached tokens could not tell"
    publish(metrics, session(*TURNS))
    assert said() == 0
    publish(metrics, failed_session(*TURNS))
    assert said() is None


def test_a_wedge_ends_with_the_process_that_had_it(metrics):
    publish(metrics, engine_view(restarts=1))
    publish(metrics, IsolationReading("local", leaked=None, wedged=True))
    publish(metrics, engine_view(restarts=1))
    assert Page(metrics).value("vllm_probe_cache_wedged") == 1
    publish(metrics, engine_view(restarts=2))
    assert Page(metrics).value("vllm_probe_cache_wedged") is None


def test_requests_that_are_no_turns_count_as_consumed(metrics):
    publish(metrics, session(TURNS[0], extra_tokens=1001))
    page = Page(metrics)
    assert page.value("vllm_probe_consumed_tokens_total") == 1000 + 32 + 1001
    assert page.value("vllm_probe_prompt_tokens_total") == 1000


def test_results_are_told_by_model_once_sessions_were_played_with_several(metrics):
    family = "vllm_probe_model_cached_tokens_total"
    publish(metrics, session(*TURNS, model="tiny"))
    assert Page(metrics).value(family, model="tiny") is None
    publish(metrics, session(*TURNS[:2], model="sql"))
    page = Page(metrics)
    assert page.value(family, model="tiny") == 992 + 1024
    assert page.value(family, model="sql") == 992
    attainable = "vllm_probe_model_attainable_cached_tokens_total"
    assert page.value(attainable, model="tiny") == 992 + 1280
    assert page.value(attainable, model="sql") == 992
