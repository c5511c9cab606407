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
from exporter.model.session import Notice


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
    ],
)
async def test_the_check_finds_an_answer_that_does_not_match(
    client, published, description, spoil, where
):
    published.session_finished(session(*TURNS))
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
