"""The status page."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import page_scene
import pytest
from aiohttp.test_utils import TestClient, TestServer
from fake_clock import FakeClock
from publish_records import (
    STARTED,
    TURNS,
    UNSTABLE,
    container_view,
    engine_view,
    failed_engine_view,
    failed_session,
    session,
    turn,
)
from samples_page import publish

from exporter.container.decide.records import (
    Cause,
    Diagnosis,
    DockerProblem,
    LifecycleState,
    PullProgress,
)
from exporter.metrics.state.target import TargetState
from exporter.model.failure import FailureReason
from exporter.model.session import LossCause, Notice
from exporter.web.page.views.problems import container_problems
from exporter.web.server import create_app
from exporter.wording.notices import ADVICE, FAILURE_ADVICE
from grafana.names import Uid

RUNBOOKS = Path(__file__).parents[3] / "docs/runbooks"
VOID = {"meta", "link", "br", "img", "input", "hr", "rect"}


class Document(HTMLParser):
    """Tags, attributes and text; fails on a closing tag without an open one."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def show(client):
    async def show() -> Document:
        answer = await client.get("/")
        assert (answer.status, answer.content_type) == (200, "text/html")
        return Document(await answer.text())

    return show


async def test_without_targets_the_page_says_so(show):
    assert "No targets." in (await show()).text


async def test_a_healthy_target_shows_its_session_turn_by_turn(show, published):
    published.metrics.add(TargetState("local"))
    publish(published.metrics, engine_view())
    published.session_finished(session(*TURNS))
    page = (await show()).text
    assert "1 target: 1 up." in page
    assert (
        "The cache served 2,016 of 3,750 prompt tokens (53.8 %) and lost 256 that it could "
        "have served: unexplained in turn 3."
    ) in page
    assert "3 1,500 1,024 1,280 68.3 % 80.0 % 32 125 ms 1.50 s" in page
    assert "Turn 3: 256 tokens lost, unexplained" in page
    assert "Cache capacity 32,768 tokens" in page
    assert "SIMULATED" not in page
    assert "started" in page
    assert "60 s ago" in page


async def test_a_dead_a_wedged_and_a_broken_target_are_counted_by_their_condition(
    client, show, published
):
    missed = turn(2, 1250, 0, 992, cause=LossCause.WEDGED)
    little = turn(2, 1250, 32, 32)
    published.session_finished(failed_session(target="dead"))
    published.session_finished(
        session(TURNS[0], missed, target="wedged", notices=frozenset({Notice.CACHE_WEDGED}))
    )
    published.session_finished(session(TURNS[0], little, target="broken", prefix=UNSTABLE))
    document = await show()
    assert "3 targets: 1 failing, 2 unhealthy." in document.text
    assert "wedged Unhealthy: cache wedged" in document.text
    assert "broken Unhealthy: template rewrites history" in document.text
    assert "The prefix cache has stopped hitting" in document.text
    assert document.text.count(ADVICE[Notice.CACHE_WEDGED]) == 1
    badges = [
        attrs["class"] for tag, attrs in document.tags if "badge" in (attrs.get("class") or "")
    ]
    assert set(badges) == {"badge bad"}
    html = await (await client.get("/")).text()
    assert "<title>3 targets: 1 failing, 2 unhealthy. vllm-cache-exporter</title>" in html
    answer = await (await client.get("/api/v1/targets")).json()
    assert {each["target"]: each["state"] for each in answer["targets"]} == {
        "dead": "failing",
        "wedged": "wedged",
        "broken": "prefix_unstable",
    }


async def test_a_failing_scenario_among_others_is_a_problem_with_its_name(show, published):
    published.session_finished(
        failed_session(scenario="long", reason=FailureReason.PROMPT_TOO_LONG, detail="9000 tokens")
    )
    published.session_finished(session(*TURNS))
    page = (await show()).text
    assert "1 target: 1 unhealthy." in page
    assert "The last session of long failed in turn 1: prompt too long 9000 tokens" in page


async def test_unknown_values_are_dashes_and_the_reason_is_shown(show, published):
    published.session_finished(
        session(turn(1, 1000, None, None), notices=frozenset({Notice.USAGE_DETAILS_MISSING}))
    )
    page = (await show()).text
    assert "The number of prompt tokens that the cache served is unknown." in page
    assert "1 1,000 – – – – 32 250 ms 1.50 s" in page  # noqa: RUF001 - the page's dash
    assert ADVICE[Notice.USAGE_DETAILS_MISSING] in page


@pytest.mark.parametrize("reason", FailureReason)
async def test_a_failed_session_shows_reason_detail_and_advice(show, published, reason):
    published.session_finished(failed_session(*TURNS[:2], reason=reason, detail="the detail"))
    page = (await show()).text
    assert "1 target: 1 failing." in page
    assert f"The last session failed in turn 3: {reason.replace('_', ' ')} the detail" in page
    assert FAILURE_ADVICE[reason] in page
    assert "2 turns finished." in page


async def test_a_session_that_failed_before_its_first_turn_is_shown_as_such(show, published):
    failed = dataclasses.replace(failed_session(), failed_turn=None)
    published.session_finished(failed)
    page = (await show()).text
    assert "The last session failed before its first turn: connection refused" in page
    assert "No turn finished." in page


async def test_a_failed_scrape_is_shown_with_a_finished_session(show, published):
    published.session_finished(session(*TURNS))
    publish(published.metrics, failed_engine_view())
    page = (await show()).text
    assert "The engine's own metrics cannot be read: timeout no whole page within 3 s" in page
    assert "Cache capacity" not in page


async def test_a_simulated_engine_is_marked_in_capitals(show, published):
    published.metrics.add(TargetState("local"))
    simulated = dataclasses.replace(engine_view().info, simulated=True)
    publish(published.metrics, engine_view(info=simulated))
    page = (await show()).text
    assert "SIMULATED local: these numbers describe a simulator" in page


async def test_earlier_sessions_are_listed_and_bounded(show, published):
    for place in range(30):
        published.session_finished(session(*TURNS, started=STARTED - 3600 + 60 * place))
    document = await show()
    assert document.text.count("finished 3 53.8 % 88.7 % 8.00 s") == 8


async def test_a_container_shows_its_state_and_its_diagnosis(show, published):
    published.metrics.add(TargetState("local", mode="managed"))
    publish(
        published.metrics,
        container_view(pull=PullProgress(1, 4, bytes_done=1_500_000, bytes_total=9_000_000_000)),
    )
    page = (await show()).text
    assert "The container: the kernel killed it at its memory limit" in page
    assert "Give the container more memory." in page
    assert "State backing off, since 2026-01-01 00:00:00 UTC" in page
    assert "Image pull 1.5 MB of 9.0 GB so far, 1 of 4 layers" in page
    assert "Restarts 2 oom killed" in page


async def test_an_unreachable_docker_is_a_problem_and_no_old_value_is_shown(show, published):
    published.metrics.add(TargetState("local"))
    publish(
        published.metrics,
        container_view(
            state=LifecycleState.UNKNOWN,
            docker_problem=DockerProblem.PERMISSION_DENIED,
            diagnosed=False,
        ),
    )
    page = (await show()).text
    assert (
        "Docker: permission denied The exporter's user has no permission for Docker's socket"
        in page
    )
    assert "Exit code" not in page


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>{{7*7}} \ud800 \x00"


async def test_hostile_strings_stay_text(show, published):
    target = "<b>x</b>"
    published.metrics.add(TargetState(target, mode="managed", url=f"http://host/{HOSTILE}"))
    published.session_finished(failed_session(*TURNS, target=target, detail=HOSTILE))
    info = dataclasses.replace(engine_view().info, model=HOSTILE, version=HOSTILE)
    publish(published.metrics, engine_view(target=target, info=info))
    publish(
        published.metrics,
        container_view(target=target, diagnosis=Diagnosis(Cause.EXITED, HOSTILE, HOSTILE, HOSTILE)),
    )
    document = await show()
    tags = [tag for tag, _ in document.tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert "b" not in tags
    assert not [name for _, attrs in document.tags for name in attrs if name.startswith("on")]
    assert document.text.count("<script>alert(1)</script>") >= 6
    assert "{{7*7}}" in document.text


async def test_the_page_loads_nothing_from_another_host(show, published, client):
    published.metrics.add(TargetState("local", url="http://elsewhere.example:8000"))
    published.session_finished(session(*TURNS))
    document = await show()
    links = [
        value
        for _, attrs in document.tags
        for name, value in attrs.items()
        if name in {"href", "src", "action", "srcset", "data"}
    ]
    assert links
    for link in links:
        assert not re.match(r"(https?:)?//", link)
        if not link.startswith("data:"):
            assert (await client.get(f"/{link}")).status == 200


async def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else(client):
    answer = await client.get("/")
    html = await answer.text()
    policy = dict(
        part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; ")
    )
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data:"  # the empty icon, so that the browser requests none
    assert " style=" not in html
    assert not re.search(r"<[^>]+ on\w+=", html)


async def test_tables_are_marked_up_for_a_screen_reader(show, published):
    published.session_finished(session(*TURNS))
    document = await show()
    tags = [tag for tag, _ in document.tags]
    assert ("html", {"lang": "en"}) in document.tags
    assert tags.count("caption") == tags.count("table") == 2
    assert all("scope" in attrs for tag, attrs in document.tags if tag == "th")
    ids = [attrs["id"] for _, attrs in document.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in document.tags:
        for naming in ("aria-labelledby", "aria-describedby"):
            assert set((attrs.get(naming) or "").split()) <= set(ids)


async def test_one_target_without_a_section_has_none(show, published):
    page_scene.many(published.metrics, published.history, 5)
    assert "1 of them has no section below" in (await show()).text


async def test_the_page_stays_small_with_many_targets_and_gives_healthy_ones_no_section(
    client, show, published
):
    page_scene.many(published.metrics, published.history, 20)
    body = await (await client.get("/")).read()
    assert len(body) < 100_000
    document = await show()
    headings = [attrs["id"] for tag, attrs in document.tags if tag == "h2"]
    assert len(headings) == 4
    assert "20 targets: 5 failing, 15 up." in document.text
    assert "16 of them have no section below" in document.text
    links = {attrs["href"] for tag, attrs in document.tags if tag == "a"}
    unwell = {f"?target=target-{number}" for number in (3, 7, 11, 15)}
    assert not unwell & links
    assert {"?target=target-1", "?target=target-19"} <= links


async def test_a_target_without_a_section_has_a_page_of_its_own(client, published):
    page_scene.many(published.metrics, published.history, 20)
    body = await (await client.get("/?target=target-17")).text()
    document = Document(body)
    assert [tag for tag, _ in document.tags].count("h2") == 1
    assert "target-17 Up Last session" in document.text
    assert ("a", {"href": "./"}) in document.tags
    assert (await client.get("/?target=nobody")).status == 404


async def test_only_the_last_turns_of_a_very_long_session_are_shown(show, published):
    turns = [turn(index, 1000, 992, 992) for index in range(1, 1001)]
    published.session_finished(session(*turns))
    document = await show()
    assert "the first 968 are not shown" in document.text
    rows = [attrs for tag, attrs in document.tags if (tag, attrs.get("scope")) == ("th", "row")]
    assert len(rows) == 32


async def test_the_page_stays_small_when_long_sessions_lose_at_every_turn(client, published):
    causes = list(LossCause)
    turns = [
        turn(index, 100_000 + index, 0, 99_000, cause=causes[index % len(causes)])
        for index in range(1, 200)
    ]
    detail = "could not be reached " * 20
    for number in range(20):
        name = f"a-target-with-a-rather-long-name-{number}"
        published.metrics.add(TargetState(name))
        publish(published.metrics, container_view(target=name))
        publish(published.metrics, failed_engine_view(target=name))
        failed = failed_session(*turns, target=name, detail=detail)
        notices = frozenset({Notice.PREFIX_UNSTABLE})
        for _ in range(9):
            published.session_finished(
                dataclasses.replace(failed, prefix=UNSTABLE, notices=notices)
            )
    body = await (await client.get("/")).read()
    assert len(body) < 100_000


async def test_losses_are_shown_by_cause_with_advice(show, published):
    page_scene.healthy(published.metrics, published.history)
    text = (await show()).text
    assert "evicted 1,264 2,528 3.6 % If evicted: The cache is too small for its traffic" in text


async def test_the_last_exit_is_still_shown_when_the_container_runs_again(show, published):
    page_scene.healthy(published.metrics, published.history)
    text = (await show()).text
    assert "State ready, since" in text
    assert "Last exit code 137, 60 s ago: the kernel killed it at its memory limit" in text


async def test_nothing_links_to_another_host_unless_grafana_is_named(show, published, client):
    page_scene.three(published.metrics, published.history)
    links = {attrs["href"] for tag, attrs in (await show()).tags if tag == "a"}
    assert not [link for link in links if "//" in link]
    assert "runbooks/out-of-memory" in links
    for link in links:
        if not link.startswith("#"):
            assert (await client.get(f"/{link}")).status in {200, 503}, link


async def links_of(published, **options):
    app = create_app(
        metrics=published.metrics,
        history=published.history,
        clock=FakeClock(unix=STARTED + 60),
        **options,
    )
    async with TestClient(TestServer(app)) as client:
        html = await (await client.get("/")).text()
    return [attrs["href"] for tag, attrs in Document(html).tags if tag == "a"]


async def test_the_picture_of_a_session_is_linked_where_one_can_be_drawn(published):
    published.session_finished(session(*TURNS, target="a b"))
    published.metrics.add(TargetState("new"))
    published.session_finished(failed_session(target="down"))
    links = await links_of(published, draw=lambda _session: b"")
    assert [link for link in links if "png" in link] == ["report.png?target=a+b"]
    links = await links_of(published, draw=lambda _session: b"", offers_pictures=False)
    assert not [link for link in links if "png" in link]


async def test_grafana_is_linked_at_its_configured_address(published):
    page_scene.three(published.metrics, published.history)
    grafana = page_scene.GRAFANA_URL
    links = await links_of(published, grafana_url=grafana)
    assert {link for link in links if "//" in link} == {
        f"{grafana}/d/{Uid.OVERVIEW}",
        *(f"{grafana}/d/{Uid.SESSION}?var-target={name}" for name in ("qwen", "mistral", "demo")),
    }


@pytest.mark.parametrize(
    "view",
    [
        container_view(),
        container_view(restarts={}),
        container_view(docker_problem=DockerProblem.TIMEOUT),
        container_view(diagnosis=Diagnosis(Cause.EXITED, "it ended", "", "")),
    ],
)
def test_every_problem_of_a_container_has_an_existing_runbook(view):
    problems = container_problems(view)
    assert problems
    for problem in problems:
        assert (RUNBOOKS / f"{problem.runbook}.md").is_file()


async def test_an_unstable_prompt_is_shown_with_its_place_its_text_and_advice(show, published):
    notices = frozenset({Notice.PREFIX_UNSTABLE})
    published.session_finished(session(*TURNS, prefix=UNSTABLE, notices=notices))
    text = (await show()).text
    assert "The prompt is not stable from turn to turn: system prompt moved" in text
    assert "token 14 of 1,032, in message 1 (system)" in text
    assert "it had «You are a careful engineer», and now has «Customers say that»" in text
    assert text.count("--chat-template") == 1
