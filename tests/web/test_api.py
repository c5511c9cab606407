"""The JSON API."""

from __future__ import annotations

import asyncio
import json

import pytest
from publish_records import (
    STARTED,
    TURNS,
    container_view,
    engine_view,
    failed_engine_view,
    failed_session,
    session,
)
from samples_page import publish

from exporter.metrics.state.target import TargetState
from exporter.model.session import Notice
from exporter.web import api
from exporter.wording.notices import ADVICE
from exporter.wording.session_json import session_json


@pytest.fixture
def three_sessions(published):
    results = [
        session(*TURNS, started=STARTED),
        failed_session(*TURNS[:1], target="other", started=STARTED + 60),
        session(*TURNS, started=STARTED + 120),
    ]
    for result in results:
        published.session_finished(result)
    return results


async def ask(client, path):
    answer = await client.get(path)
    assert answer.content_type == "application/json"
    return answer.status, json.loads(await answer.text())


async def test_sessions_are_listed_newest_first(client, three_sessions):
    assert await ask(client, "/api/v1/sessions") == (
        200,
        {"sessions": [session_json(result) for result in reversed(three_sessions)]},
    )


async def test_sessions_can_be_limited_by_target_and_number(client, three_sessions):
    _, found = await ask(client, "/api/v1/sessions?target=local&limit=1")
    assert found == {"sessions": [session_json(three_sessions[2])]}
    _, found = await ask(client, "/api/v1/sessions?limit=1000")
    assert len(found["sessions"]) == 3


async def test_a_target_without_sessions_has_an_empty_list(client, published):
    published.metrics.add(TargetState("new"))
    assert await ask(client, "/api/v1/sessions?target=new") == (200, {"sessions": []})


@pytest.mark.usefixtures("three_sessions")
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "limit: '0' is not a whole number from 1 to 1000"),
        ("limit=1001", "limit: '1001' is not a whole number from 1 to 1000"),
        ("limit=-1", "limit: '-1' is not a whole number from 1 to 1000"),
        ("limit=", "limit: '' is not a whole number from 1 to 1000"),
        ("limit=1.5", "limit: '1.5' is not a whole number from 1 to 1000"),
        ("limit=%D9%A3", "limit: '٣' is not a whole number from 1 to 1000"),
        ("limit=1%0A", "limit: '1\\n' is not a whole number from 1 to 1000"),
        ("target=nobody", "target: there is no target 'nobody'; there are: local, other"),
        ("limit=1&limit=2", "limit: given more than once"),
        ("offset=3", "offset: unknown parameter; allowed: limit and target"),
    ],
)
async def test_a_wrong_parameter_is_refused_with_the_allowed_values(client, query, words):
    assert await ask(client, f"/api/v1/sessions?{query}") == (400, {"error": words})


async def test_a_number_of_thousands_of_digits_is_refused_too(client):
    status, answer = await ask(client, f"/api/v1/sessions?limit={'9' * 5000}")
    assert status == 400
    assert answer["error"].startswith("limit: ")


async def test_targets_can_be_selected_by_name(client, published):
    for name in ("one", "two"):
        published.metrics.add(TargetState(name))
    status, answer = await ask(client, "/api/v1/targets?target=two")
    assert (status, [each["target"] for each in answer["targets"]]) == (200, ["two"])
    assert await ask(client, "/api/v1/targets?target=no") == (
        400,
        {"error": "target: there is no target 'no'; there are: one, two"},
    )
    assert await ask(client, "/api/v1/targets?x=1") == (
        400,
        {"error": "x: unknown parameter; allowed: target"},
    )


async def test_other_tasks_run_between_the_parts_of_a_long_answer():
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    answer = await api._in_parts("targets", ({"target": str(n)} for n in range(1000)))
    counting.cancel()
    assert turns >= 100
    assert json.loads(answer.text)["targets"][999] == {"target": "999"}


async def test_the_newest_thousand_sessions_of_a_fleet_are_listed(client, published):
    for number in range(300):
        for _ in range(4):
            published.session_finished(session(*TURNS[:1], target=f"t{number}"))
    _, targets = await ask(client, "/api/v1/targets")
    assert len(targets["targets"]) == 300
    _, answer = await ask(client, "/api/v1/sessions")
    assert len(answer["sessions"]) == 1000
    _, answer = await ask(client, "/api/v1/sessions?target=t7")
    assert len(answer["sessions"]) == 4


async def test_everything_is_unknown_before_the_first_look_at_a_target(client, published):
    published.metrics.add(TargetState("new", url="http://u:p@host:8000"))
    assert await ask(client, "/api/v1/targets") == (
        200,
        {
            "targets": [
                {
                    "target": "new",
                    "mode": "external",
                    "url": "http://host:8000",
                    "up": None,
                    "failure": None,
                    "last_session_started": None,
                    "simulated": None,
                    "sessions": 0,
                    "notices": [],
                    "engine": None,
                    "container": None,
                    "cost": {
                        "paused": None,
                        "budget_tokens_per_hour": None,
                        "cache_turnover_ratio": None,
                        "prefill_seconds_per_token": None,
                        "prefill_seconds_per_token_error": None,
                        "prefill_seconds_saved": None,
                        "users_prefill_seconds_saved": None,
                        "retention_ratios": {},
                    },
                    "state": "not_probed",
                }
            ]
        },
    )


async def test_a_healthy_target_has_the_facts_of_its_engine(client, published):
    published.metrics.add(TargetState("local"))
    publish(published.metrics, engine_view())
    published.session_finished(session(*TURNS, notices=frozenset({Notice.SCENARIO_SHORTENED})))
    _, answer = await ask(client, "/api/v1/targets")
    [target] = answer["targets"]
    assert target["up"] is True
    assert target["last_session_started"] == "2026-01-01T00:00:00.250Z"
    assert target["notices"] == [
        {"notice": "scenario_shortened", "advice": ADVICE[Notice.SCENARIO_SHORTENED]}
    ]
    assert target["engine"] == {
        "up": True,
        "failure": None,
        "version": "0.32.0",
        "engines": 1,
        "model": "tiny",
        "max_model_len": 8192,
        "prefix_caching": True,
        "block_size": 32,
        "match_unit_tokens": 32,
        "capacity_tokens": 32768,
        "hit_ratios": {"1m": 0.5, "1h": 0.8},
        "effective_hit_ratios": {"1m": 0.6, "1h": 0.9},
        "external_hit_tokens": 480.0,
        "users": {
            "queried_tokens": None,
            "hit_tokens": None,
            "saved_tokens": None,
            "hit_ratios": {},
            "external_hit_tokens": None,
            "effective_hit_ratios": {},
        },
        "lookups_recounted": False,
        "restarts": 1,
    }


async def test_a_failing_target_has_its_problems_and_advice(client, published):
    published.metrics.add(TargetState("local"))
    publish(published.metrics, failed_engine_view())
    publish(published.metrics, container_view())
    published.session_finished(failed_session())
    _, answer = await ask(client, "/api/v1/targets")
    [target] = answer["targets"]
    assert target["up"] is False
    assert target["failure"]["reason"] == "connection_refused"
    assert target["failure"]["advice"].startswith("Nothing listens")
    assert target["engine"]["failure"] == {
        "reason": "timeout",
        "detail": "no whole page within 3 s",
    }
    assert target["container"]["state"] == "backing_off"
    assert target["container"]["diagnosis"]["cause"] == "oom_killed"
    assert target["container"]["restarts"] == {"oom_killed": 2}
