"""A scenario for chat templates that refuse a system message."""

import pytest

from exporter.model.failure import Failure, FailureReason
from exporter.scenario.library import BUILT_IN, load_scenarios
from exporter.scenario.model import Scenario, refuses_system

SYSTEM = {"role": "system", "content": "Be brief."}


def user(content):
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("step", "without"),
    [
        ((SYSTEM, user("Hello")), (user("Be brief.\n\nHello"),)),
        ((user("Hello"),), (user("Hello"),)),
        ((SYSTEM, SYSTEM, user("Hello")), (user("Be brief.\n\nBe brief.\n\nHello"),)),
        ((SYSTEM,), (user("Be brief."),)),
        (
            (SYSTEM, user([{"type": "text", "text": "Hello"}])),
            (user([{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Hello"}]),),
        ),
        (
            ({"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, user("Hello")),
            (user("Be brief.\n\nHello"),),
        ),
    ],
)
def test_the_text_of_a_system_message_goes_to_the_head_of_the_users(step, without):
    scenario = Scenario("s", (), (step, (user("Go on."),))).without_system()
    assert scenario.steps[0] == without
    assert scenario.steps[1] == (user("Go on."),)
    assert not scenario.has_system


@pytest.mark.parametrize("kind", [load_scenarios(name)[0] for name in BUILT_IN])
def test_each_built_in_scenario_has_a_variant_without_a_system_message(kind):
    given, made = kind.build(4000), kind.without_system().build(4000)
    assert given.has_system
    assert not made.has_system
    assert given.steps[0][0]["content"] in made.steps[0][0]["content"]
    assert (made.name, made.tools, len(made.steps)) == (given.name, given.tools, len(given.steps))


@pytest.mark.parametrize(
    ("reason", "detail", "refused"),
    [
        (FailureReason.BAD_REQUEST, "HTTP 400: System role not supported", True),
        (FailureReason.BAD_REQUEST, "HTTP 400: Conversation roles must alternate", True),
        (FailureReason.BAD_REQUEST, "HTTP 400: max_tokens is too large", False),
        (FailureReason.BAD_REQUEST, "HTTP 400: unknown field cache_salt", False),
        (FailureReason.BAD_REQUEST, "HTTP 400: the file system is full", False),
        (FailureReason.SERVER_ERROR, "HTTP 500: System role not supported", False),
    ],
)
def test_a_refusal_of_the_system_role_is_recognized_by_its_message(reason, detail, refused):
    assert refuses_system(Failure(reason, detail)) is refused
