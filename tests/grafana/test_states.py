"""Every panel of a healthy target, of targets after a fault, and without the exporter.

A real Prometheus with the shipped rules scrapes a real exporter of simulated engines.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import played_fleet
import pytest
from grafana_dashboards import MODELS, panel, panels
from played_fleet import CONTAINERS, FAULTS, HEALTHY

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.docker

PATIENCE = 60.0  # seconds for each part of the story: a bound, each takes about ten
WINDOW = "5m"  # longer than the story, so that the windows keep what was before
WITHOUT_EXPORTER = "without the exporter"
ALL_TARGETS = "all targets"

# What is empty on a healthy target: what needs a router, a flag or a container.
ROUTER = {"Hit ratio by replica", "Turns on the replica of the turn before"}
FLAG = {"Blocks of all traffic when they are evicted"}
CONTAINER = {
    "State of the container",
    "Diagnosis",
    "Restarts, by cause",
    "Failed starts, by cause",
    "Events over time",
    "The container",
}
USERS = {"Hit ratio of users", "Hit ratio of users, by window", "Time to first token of users"}
LAST_HIT_RATIO = {
    "Hit ratio of the last session",
    "Efficiency of the last session",
    "Hit ratio of each turn over time",
}
LAST_SESSION = LAST_HIT_RATIO | {
    "Hit ratio by turn",
    "Notices of the last sessions",
    "Prompt prefix",
    "Repeated prompts",
    "The last session in figures",
    "Time to first token of each turn",
    "Time to first token saved",
    "Times by turn: first token, whole answer",
    "Tokens by turn: prompt, ideal, attainable, cached",
}
ENGINE = {
    "KV cache capacity",
    "KV cache in use",
    "Requests running and waiting",
    "Scrape duration of the engine's metrics",
    "The engine",
    "The reuse rule",
}
RETENTION = {"Still cached after an idle gap of seconds"}
ALONE = ROUTER | FLAG | CONTAINER
EMPTY: dict[str, set[str]] = {
    HEALTHY: ALONE,
    "wedged": ALONE | USERS | RETENTION,
    "small-cache": ALONE | USERS,
    "dead": ALONE | USERS | LAST_SESSION | ENGINE,
    "restarted": ALONE | USERS | RETENTION,
    "template": ALONE | USERS,
    "no-details": ALONE | USERS | LAST_HIT_RATIO,
    "no-caching": ALONE | USERS,
    "salts": ALONE | USERS,
    ALL_TARGETS: ROUTER | FLAG,
}
OF_CONTAINER = {*CONTAINER, "Docker", "Time in this state", "Duration of the last start"}
EMPTY_OF_CONTAINER: dict[str, set[str]] = {
    "ready": set(),
    "out-of-memory": set(),
    "never-ready": {"Duration of the last start"},
    "docker-away": {"Diagnosis", "Restarts, by cause", "Failed starts, by cause", "The container"},
}
# Without the exporter, these still have numbers: what Prometheus itself knows, what was counted in
# the dashboard's time range, and what is averaged over a window that began before the end.
KNOWN_TO_PROMETHEUS = {"Exporter", "Firing alerts"}
STILL_COUNTED = KNOWN_TO_PROMETHEUS | {
    "Prefill time saved for users",
    "Restarts of the engine's process",
    "Salt isolation",
    "Targets",
    "Tokens saved, for users and for the probe",
}
STILL_AVERAGED = {
    "Cold controls, by outcome",
    "Generated tokens",
    "Hit ratio of the probe",
    "Hit ratio over time",
    "Load of the probe on the engine",
    "Median time to first token, warm",
    "Preemptions",
    "Prompt tokens of all traffic, and saved for users",
    "Slower than the objective on time to first token",
    "Time between tokens",
    "Time to first token of users",
    "Time to first token with and without the cache, by turn",
    "Time to first token, warm and cold",
    "Tokens saved per second",
    "Where cached tokens came from",
}

# Where a fault is seen: the target, the panel, its query, and a label or the value that says it.
SEEN: list[tuple[str, str, str, str, object]] = [
    ("wedged", "overview", "Repeated prompts", "A", 1),
    ("small-cache", "overview", "Tokens lost, by cause", "A", {"cause": "evicted"}),
    ("dead", "overview", "Engine and probe", "A", 0),
    ("dead", "overview", "Engine and probe", "B", 0),
    ("dead", "overview", "Notices of the last sessions", "A", {"notice": "unknown"}),
    ("dead", "overview", "Real or simulated", "A", -1),
    ("template", "overview", "Prompt prefix", "A", 0),
    (
        "no-details",
        "overview",
        "Notices of the last sessions",
        "A",
        {"notice": "usage_details_missing"},
    ),
    (
        "no-caching",
        "overview",
        "Notices of the last sessions",
        "A",
        {"notice": "prefix_caching_disabled"},
    ),
    ("salts", "overview", "Salt isolation", "C", 1),
    (HEALTHY, "overview", "Salt isolation", "C", 0),
    (HEALTHY, "engine", "Docker", "A", -1),
    ("out-of-memory", "engine", "Diagnosis", "A", {"reason": "oom_killed"}),
    ("out-of-memory", "engine", "Restarts, by cause", "A", {"reason": "oom_killed"}),
    ("never-ready", "engine", "Failed starts, by cause", "A", {"reason": "exited"}),
    ("ready", "engine", "Diagnosis", "A", {"reason": "none"}),
    ("docker-away", "engine", "Diagnosis", "A", {"reason": "unknown"}),
    ("docker-away", "engine", "Docker", "A", 0),
]


@dataclass
class Story:
    """The titles of the panels without a number, by state, and the answers of SEEN."""

    empty: dict[str, set[str]] = field(default_factory=dict)
    seen: list[list[dict[str, Any]]] = field(default_factory=list)

    def wait(self, stack, wanted: dict[str, set[str]], patience=PATIENCE) -> None:
        """Until these are empty. What is not so in time is found by a test, which says more."""
        give_up = time.monotonic() + patience
        left = wanted
        while left and time.monotonic() < give_up:
            self.empty |= {state: empty_panels(stack, state) for state in left}
            left = {name: empty for name, empty in left.items() if self.empty[name] != empty}


def titles() -> set[str]:
    return {one["title"] for name in MODELS for one in panels(name)}


def empty_panels(stack, state: str) -> set[str]:
    """A panel that several dashboards have is empty only if it is in all of them."""
    target = {WITHOUT_EXPORTER: HEALTHY, ALL_TARGETS: ".*"}.get(state, state)
    filled = {
        one["title"]
        for name in MODELS
        for one in panels(name)
        if any(stack.numbers(query["expr"], target, WINDOW) for query in one["targets"])
    }
    return titles() - filled


def wait_for_probes(stack) -> None:
    give_up = time.monotonic() + PATIENCE
    left = {target: shows for target, (_, shows) in FAULTS.items()}
    while left and time.monotonic() < give_up:
        found = {
            target: {series["metric"].get("target") for series in stack.ask(shows, ".*")}
            for target, shows in left.items()
        }
        left = {target: left[target] for target, those in found.items() if target not in those}
        time.sleep(0.2)
    assert not left, "no probe has noticed"


def answers(stack) -> Iterator[list[dict[str, Any]]]:
    for state, name, title, ref, _ in SEEN:
        (asked,) = (t["expr"] for t in panel(name, title)["targets"] if t["refId"] == ref)
        yield stack.ask(asked, state, WINDOW)


@pytest.fixture(scope="module")
def story(tmp_path_factory, scraped) -> Story:
    folder = tmp_path_factory.mktemp("states")
    told = Story()
    with (
        played_fleet.engines() as urls,
        played_fleet.containers() as containers_port,
        played_fleet.users(urls[HEALTHY]),
        contextlib.ExitStack() as exporter,
    ):
        port = exporter.enter_context(played_fleet.exporter(folder, urls))
        with scraped(folder, port, containers_port) as stack:
            healthy = {HEALTHY: ALONE, **dict.fromkeys(FAULTS, ALONE | USERS)}
            told.wait(stack, healthy, 3 * PATIENCE)  # several sessions of nine engines
            for name, (fault, _) in FAULTS.items():
                played_fleet.post(f"{urls[name]}/faults", fault)
            wait_for_probes(stack)
            told.wait(stack, {name: EMPTY[name] for name in (*FAULTS, ALL_TARGETS)})
            for name in CONTAINERS:
                told.empty[name] = empty_panels(stack, name) & OF_CONTAINER
            told.seen = list(answers(stack))
            exporter.close()
            told.wait(stack, {WITHOUT_EXPORTER: titles() - STILL_COUNTED - STILL_AVERAGED})
    return told


@pytest.mark.parametrize("state", EMPTY)
def test_every_panel_has_data_but_those_whose_value_is_unknown_in_this_state(story, state):
    assert story.empty[state] == EMPTY[state]


@pytest.mark.parametrize("state", EMPTY_OF_CONTAINER)
def test_every_panel_of_a_container_has_data_but_those_whose_value_is_unknown(story, state):
    assert story.empty[state] == EMPTY_OF_CONTAINER[state]


def test_without_the_exporter_nothing_is_known_but_what_was_counted_before(story):
    assert titles() - story.empty[WITHOUT_EXPORTER] == STILL_COUNTED | STILL_AVERAGED


def test_a_number_of_now_that_is_left_without_the_exporter_was_counted_in_the_time_range():
    for one in (one for name in MODELS for one in panels(name)):
        if one["type"] in {"stat", "table"}:
            asked = " ".join(query["expr"] for query in one["targets"])
            counted = one["title"] in STILL_COUNTED and one["title"] not in KNOWN_TO_PROMETHEUS
            assert "[$__range]" in asked or not counted, one["title"]
            assert one["title"] not in STILL_AVERAGED


@pytest.mark.parametrize("number", range(len(SEEN)), ids=[" ".join(one[:4:2]) for one in SEEN])
def test_a_fault_is_seen_where_one_looks_for_it(story, number):
    found, wanted = story.seen[number], SEEN[number][-1]
    if isinstance(wanted, dict):
        assert any(wanted.items() <= series["metric"].items() for series in found), found
    else:
        assert [float(series["value"][1]) for series in found] == [wanted]


def test_a_panel_that_is_empty_in_a_state_says_that_its_value_is_unknown(story):
    empty = set().union(*story.empty.values())
    for one in (one for name in MODELS for one in panels(name)):
        word = one["fieldConfig"]["defaults"]["noValue"]
        assert one["title"] not in empty or re.match("unknown|no container", word), one["title"]
