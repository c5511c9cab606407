"""The condition of a target: on the page, in its title and list, and in the API."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from publish_records import (
    STARTED,
    TURNS,
    UNSTABLE,
    container_view,
    engine_view,
    failed_engine_view,
    failed_session,
    session,
    snapshot,
    turn,
)

from exporter.container.decide.records import Cause, LifecycleState
from exporter.metrics.state.condition import LOOKS, RULES, Condition, condition
from exporter.metrics.state.target import TargetState
from exporter.model.failure import FailureReason
from exporter.model.probe import IsolationReading, PauseReason
from exporter.model.session import Loss, LossCause, Notice

SOUND = session(TURNS[0], turn(2, 1250, 992, 992), turn(3, 1500, 1280, 1280))
LITTLE = (turn(1, 1000, 0, 0), turn(2, 1250, 32, 32), turn(3, 1500, 32, 32))
MISSED = (turn(1, 1000, 0, 0), turn(2, 1250, 0, 992, cause=LossCause.EVICTED))
HALF = (turn(1, 1000, 0, 0), turn(2, 1250, 496, 992, cause=LossCause.EVICTED))
HIDDEN_AND_UNKNOWN = replace(
    turn(2, 1250, None, 992), loss=Loss(992, LossCause.UNREPORTED, "hidden")
)
HIDDEN = (turn(1, 1000, 0, 0), turn(2, 1250, 0, 992, cause=LossCause.UNREPORTED))
UNEXPLAINED = (turn(1, 1000, 0, 0), turn(2, 1250, 496, 992, cause=LossCause.UNEXPLAINED))
BY_ITS_RULE = (turn(1, 1000, 0, 0), turn(2, 1250, 496, 992, gives_up=496))
NOTHING_ATTAINABLE = (turn(1, 1000, 0, 0), turn(2, 1250, 0, 992, gives_up=992))
LOST_BESIDE_ITS_RULE = (
    turn(1, 1000, 0, 0),
    turn(2, 1250, 346, 992, gives_up=496, cause=LossCause.EVICTED),  # 15 % of the ideal
)
LOST_WITHOUT_A_RULE = (
    turn(1, 1000, 0, 0),
    turn(2, 1250, 496, 992, gives_up=None, cause=LossCause.EVICTED),
)
UNTOLD = (turn(1, 1000, None, 0), turn(2, 1250, None, 992))
WEDGED = (turn(1, 1000, 0, 0), turn(2, 1250, 0, 992, cause=LossCause.WEDGED))


def target(*sessions, mode="external"):
    state = TargetState("local", mode)
    for each in sessions:
        state.session_finished(each)
    return state


def asleep():
    state = target(failed_session(reason=FailureReason.FIRST_TOKEN_TIMEOUT))
    state.engine_scraped(replace(engine_view(), snapshot=replace(snapshot(), asleep=True)))
    return state


def held_back(reason):
    state = target(SOUND)
    state.admission_checked(reason)
    return state


def wedged_by_the_salt_test():
    state = target(SOUND)
    state.isolation_tested(IsolationReading("local", leaked=None, wedged=True))
    return state


def container(lifecycle, *sessions, since=STARTED + 60):
    state = target(*sessions, mode="managed")
    state.container_changed(container_view(state=lifecycle, since_time=since, diagnosed=False))
    return state


def wrong_address():
    state = target(failed_session(), mode="managed")
    diagnosis = replace(container_view().diagnosis, cause=Cause.ADDRESS)
    state.container_changed(
        replace(container_view(state=LifecycleState.UNHEALTHY), diagnosis=diagnosis)
    )
    return state


def behind_a_router():
    state = target(SOUND)
    parts = {(("server", name),): snapshot() for name in ("a", "b")}
    state.engine_scraped(replace(engine_view(), snapshot=replace(snapshot(), parts=parts)))
    return state


def noticed(notice):
    return target(replace(SOUND, notices=frozenset({notice})))


def unreadable():
    state = target(SOUND)
    state.engine_scraped(failed_engine_view())
    return state


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (target(), Condition.NOT_PROBED),
        (target(SOUND), Condition.UP),
        (unreadable(), Condition.UP),
        (target(SOUND, failed_session()), Condition.FAILING),
        (target(failed_session(), SOUND), Condition.UP),
        (target(session(*WEDGED)), Condition.WEDGED),
        (wedged_by_the_salt_test(), Condition.WEDGED),
        (target(session(*LITTLE, prefix=UNSTABLE)), Condition.PREFIX_UNSTABLE),
        (target(session(*SOUND.turns, prefix=UNSTABLE)), Condition.PREFIX_CHANGED),
        (target(session(*UNTOLD, prefix=UNSTABLE)), Condition.PREFIX_UNSTABLE),
        (target(session(*MISSED)), Condition.NOT_HITTING),
        (target(session(*HALF)), Condition.LOSING),
        (target(session(*HIDDEN)), Condition.HITS_HIDDEN),
        (target(session(TURNS[0], HIDDEN_AND_UNKNOWN)), Condition.HITS_HIDDEN),
        (target(session(*UNEXPLAINED)), Condition.UP),
        (target(session(*BY_ITS_RULE)), Condition.UP),
        (target(session(*NOTHING_ATTAINABLE)), Condition.UP),
        (target(session(*LOST_BESIDE_ITS_RULE)), Condition.LOSING),
        (target(session(*LOST_WITHOUT_A_RULE)), Condition.LOSING),
        (target(session(*UNTOLD)), Condition.CACHE_UNKNOWN),
        (target(session(TURNS[0])), Condition.UP),
        (noticed(Notice.PREFIX_CACHING_DISABLED), Condition.CACHING_OFF),
        (noticed(Notice.MIXED), Condition.SEVERAL_ENGINES),
        (noticed(Notice.SALT_IGNORED), Condition.NOT_ISOLATED),
        (target(session(*UNTOLD, notices={Notice.SALT_IGNORED})), Condition.CACHE_UNKNOWN),
        (noticed(Notice.SIMULATED), Condition.UP),
        (wrong_address(), Condition.ADDRESS_WRONG),
        (behind_a_router(), Condition.SEVERAL_ENGINES),
        (container(LifecycleState.BUSY, failed_session()), Condition.BUSY),
        (container(LifecycleState.BUSY, SOUND, since=STARTED - 60), Condition.UP),
        (asleep(), Condition.ASLEEP),
        (held_back(PauseReason.ASLEEP), Condition.ASLEEP),
        (held_back(PauseReason.QUEUE), Condition.UP),
        (container(LifecycleState.STARTING), Condition.STARTING),
        (container(LifecycleState.PULLING, failed_session()), Condition.STARTING),
        (container(LifecycleState.STARTING, SOUND), Condition.STARTING),
        (container(LifecycleState.STARTING, SOUND, since=STARTED - 60), Condition.UP),
        (container(LifecycleState.HELD, failed_session()), Condition.HELD),
        (container(LifecycleState.HELD, SOUND, since=STARTED - 60), Condition.UP),
        (container(LifecycleState.BACKING_OFF, SOUND), Condition.CONTAINER_DOWN),
        (container(LifecycleState.BACKING_OFF, failed_session()), Condition.FAILING),
        (container(LifecycleState.READY, SOUND), Condition.UP),
        (container(LifecycleState.UNKNOWN, SOUND), Condition.UP),
    ],
)
def test_the_first_rule_that_holds_gives_the_condition(state, expected):
    assert condition(state) is expected


def test_one_failing_scenario_makes_the_target_unhealthy():
    broken = session(*LITTLE, scenario="broken", prefix=UNSTABLE)
    assert condition(target(broken, SOUND, SOUND)) is Condition.PREFIX_UNSTABLE
    too_long = failed_session(scenario="long", reason=FailureReason.PROMPT_TOO_LONG)
    assert condition(target(SOUND, too_long)) is Condition.SCENARIO_FAILING
    assert condition(target(too_long, SOUND)) is Condition.SCENARIO_FAILING
    assert condition(target(too_long)) is Condition.FAILING


def test_every_condition_has_words_and_a_rule_and_only_up_is_green():
    assert set(LOOKS) == set(Condition)
    assert {found for found, _ in RULES} == set(Condition) - {Condition.UP}
    assert {each for each, seen in LOOKS.items() if seen.tone == "good"} == {Condition.UP}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (target(session(*WEDGED)), "Unhealthy: cache wedged"),
        (target(session(*LITTLE, prefix=UNSTABLE)), "Unhealthy: template rewrites history"),
    ],
)
def test_a_target_whose_cache_serves_nothing_is_unhealthy(state, words):
    assert LOOKS[condition(state)] == (words, "bad", "unhealthy")


def test_the_docs_have_every_condition_and_its_words():
    docs = (Path(__file__).parents[2] / "docs" / "reading-the-numbers.md").read_text("utf-8")
    _, _, table = docs.partition("| `state` | on the page | when |")
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.MULTILINE))
    assert told == {str(each): seen.words for each, seen in LOOKS.items()}
