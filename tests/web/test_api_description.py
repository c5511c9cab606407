"""The OpenAPI description, and answers of the API checked against it."""

from __future__ import annotations

import dataclasses
import re

import pytest
from api_description_check import faults
from publish_records import (
    TURNS,
    UNSTABLE,
    container_view,
    engine_view,
    failed_engine_view,
    failed_session,
    measured,
    session,
    turn,
)
from samples_page import publish

from exporter.container.decide.records import DockerProblem, LifecycleState
from exporter.metrics.state.cost import Prices
from exporter.metrics.state.target import TargetState
from exporter.model.failure import FailureReason
from exporter.model.probe import PauseReason, RetentionReading
from exporter.model.reuse import ReuseRule
from exporter.model.session import Notice

RULE = ReuseRule(unit_tokens=16, dropped_blocks=1, answers_kept=None, lookahead_tokens=0)
EAGLE = (
    turn(1, 1000, 0, 0),
    turn(2, 1250, 976, 992, gives_up=16),
    turn(3, 1500, 1200, 1280, gives_up=16),
)


@pytest.fixture
async def description(client):
    answer = await client.get("/api/v1/openapi.json")
    assert (answer.status, answer.content_type) == (200, "application/json")
    return await answer.json()


def well(published):
    published.metrics.add(TargetState("local"))
    publish(published.metrics, engine_view())
    (
        published.metrics.targets["local"].cost.budget_tokens_per_hour,
        published.metrics.targets["local"].cost.prices,
    ) = 5000, Prices()
    publish(published.metrics, RetentionReading("local", 60.0, 0.25))
    for result in measured():
        published.session_finished(result)
    published.session_finished(session(*TURNS, notices=frozenset(Notice)))
    published.session_finished(session(*EAGLE, reuse_rule=RULE))


def unwell(published):
    published.metrics.add(TargetState("local"))
    publish(published.metrics, failed_engine_view())
    publish(published.metrics, container_view())
    published.metrics.targets["local"].admission_checked(PauseReason.BUDGET)
    for reason in FailureReason:
        published.session_finished(failed_session(*TURNS[:2], reason=reason))
    published.session_finished(session(*TURNS, prefix=UNSTABLE))


def unknown(published):
    published.metrics.add(TargetState("local"))
    published.metrics.add(TargetState("new", url="http://host:8000"))
    publish(
        published.metrics,
        container_view(
            state=LifecycleState.UNKNOWN,
            docker_problem=DockerProblem.UNREACHABLE,
            diagnosed=False,
            snapshot=None,
        ),
    )
    publish(published.metrics, dataclasses.replace(engine_view(info=None, cache=None)))
    nothing = turn(1, None, None, None, completion=None, ttft=None)
    published.session_finished(session(nothing, model=None, prefix=None))
    published.session_finished(dataclasses.replace(failed_session(), failed_turn=None))


@pytest.mark.parametrize("scene", [well, unwell, unknown, lambda _: None])
@pytest.mark.parametrize("path", ["/api/v1/sessions", "/api/v1/targets"])
async def test_any_answer_matches_the_description(client, published, description, path, scene):
    scene(published)
    body = await (await client.get(path)).json()
    assert faults(description, path, body) == []


async def test_a_session_has_its_reuse_rule_and_what_that_gives_up(client, published):
    published.session_finished(session(*EAGLE, reuse_rule=RULE))
    published.session_finished(session(turn(1, 1000, 0, 0), turn(2, 1250, 976, 992, gives_up=None)))
    body = await (await client.get("/api/v1/sessions")).json()
    unknown, eagle = body["sessions"]
    assert eagle["reuse_rule"] == {
        "unit_tokens": 16,
        "dropped_blocks": 1,
        "answers_kept": None,
        "lookahead_tokens": 0,
    }
    third = eagle["turns"][2]
    assert (third["ideal_cached_tokens"], third["attainable_cached_tokens"]) == (1280, 1264)
    assert third["rule_losses"] == [{"tokens": 16, "cause": "speculative_decoding"}]
    assert third["loss"]["tokens"] == 64
    assert third["efficiency_ratio"] == 1200 / 1264
    assert unknown["reuse_rule"] is None
    second = unknown["turns"][1]
    assert second["attainable_cached_tokens"] is second["efficiency_ratio"] is None
    assert second["rule_losses"] == []


async def test_the_description_says_what_is_attainable_and_what_the_rule_gives_up(description):
    turn_keys = description["components"]["schemas"]["TurnJson"]["properties"]
    assert "reuse rule" in turn_keys["attainable_cached_tokens"]["description"]
    assert "attainable" in turn_keys["efficiency_ratio"]["description"]
    causes = description["components"]["schemas"]["RuleCause"]["enum"]
    assert set(causes) == {"speculative_decoding", "answer_not_kept", "unit", "store_chunk"}


@pytest.mark.parametrize("path", ["/api/v1/sessions", "/api/v1/targets"])
async def test_an_error_matches_the_description(client, description, path):
    answer = await client.get(f"{path}?nonsense=1")
    assert answer.status == 400
    assert faults(description, path, await answer.json(), 400) == []


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda session: session.pop("prefix"), "'prefix' is a required property"),
        (lambda session: session.update(surprise=1), "('surprise' was unexpected)"),
        (lambda session: session.update(started="yesterday"), "is not a 'date-time'"),
        (lambda session: session["turns"][1].update(hit_ratio=1.5), "turns[1].hit_ratio"),
        (lambda session: session["turns"][2]["loss"].update(cause="fate"), "turns[2].loss"),
        (lambda session: session["reuse_rule"].update(unit_tokens=0), "reuse_rule"),
        (lambda session: session["turns"][1]["rule_losses"][0].pop("cause"), "rule_losses[0]"),
    ],
)
async def test_the_check_finds_an_answer_that_does_not_match(
    client, published, description, spoil, where
):
    published.session_finished(session(*EAGLE, reuse_rule=RULE))
    body = await (await client.get("/api/v1/sessions")).json()
    spoil(body["sessions"][0])
    [fault] = faults(description, "/api/v1/sessions", body)
    assert where in fault


async def test_every_route_of_the_api_is_described_and_no_other(published, description):
    routes = {route.resource.canonical for route in published.app.router.routes()}
    assert {path for path in routes if path.startswith("/api/")} == set(description["paths"])


async def test_the_described_parameters_are_the_allowed_ones(client, description):
    operation = description["paths"]["/api/v1/sessions"]["get"]
    described = {parameter["name"]: parameter["schema"] for parameter in operation["parameters"]}
    refusal = (await (await client.get("/api/v1/sessions?x=1")).json())["error"]
    allowed = re.sub(".*allowed: ", "", refusal).split(" and ")
    assert sorted(described) == sorted(allowed)
    limit = described["limit"]
    for value, status in (
        (limit["minimum"], 200),
        (limit["maximum"], 200),
        (limit["minimum"] - 1, 400),
        (limit["maximum"] + 1, 400),
    ):
        assert (await client.get(f"/api/v1/sessions?limit={value}")).status == status


async def test_the_description_has_this_version_and_valid_references(description):
    assert description["openapi"] == "3.1.0"
    schemas = description["components"]["schemas"]
    references = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(description)))
    assert references <= set(schemas)
    operations = [path["get"]["operationId"] for path in description["paths"].values()]
    assert len(operations) == len(set(operations))
