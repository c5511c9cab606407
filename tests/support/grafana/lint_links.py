"""Rules for links and marks: each yields the names of the panels or dashboards that break it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lint_reading import expressions, overridden, panels, shows_several

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lint_reading import Boards, Panel

SESSION = "/d/vllm-cache-session"
DRAWN = ("stat", "state-timeline", "timeseries", "heatmap")
RUNBOOKS = {
    "target:vllm_probe_last_session_hit:ratio": "probe-hit-ratio-low",
    "target_scenario:vllm_probe_last_session_attainable:ratio": "cache-efficiency-low",
    "vllm_probe_cached_tokens_total": "probe-hit-ratio-low",
    "vllm_engine_users_prefix_cache_hit_tokens_total": "hit-ratio-low",
    "vllm_engine_prefix_cache_hit_tokens_total": "hit-ratio-low",
    'vllm_probe_lost_tokens_total{target=~"$target", cause!~': "cache-efficiency-low",
    'vllm_probe_lost_tokens_total{target=~"$target"}': "cache-efficiency-low",
    "vllm_probe_prefix_stable": "prefix-unstable",
    "vllm_probe_cache_wedged": "cache-wedged",
    "vllm_probe_session_failures_total": "probe-failing",
    "vllm_container_restarts_total": "",
    "vllm_container_diagnosis": "",
}
"""What a panel shows that an alert watches, and the beginning of the page of its runbook."""


def no_link_takes_several_targets_to_a_dashboard_of_one(boards: Boards) -> Iterator[str]:
    for name, model in boards.items():
        for link in model["links"]:
            reached = [
                other for other in boards.values() if set(link["tags"]) <= set(other["tags"])
            ]
            if link["type"] == "dashboards" and link["includeVars"]:
                if not all(map(shows_several, reached)):
                    yield name
            elif link.get("url", "").startswith(SESSION) and "target" in link["url"]:
                yield name


def session_has_a_link_of_its_own(boards: Boards) -> Iterator[str]:
    for name, model in boards.items():
        alone = [one for one in model["links"] if one.get("url", "").startswith(SESSION)]
        if len(alone) != shows_several(model):
            yield name


def a_restart_has_one_mark_at_any_time_range(boards: Boards) -> Iterator[str]:
    for name, model in boards.items():
        marks = {one["name"]: one["expr"] for one in model["annotations"]["list"]}
        if any("offset $__interval" not in expr for expr in marks.values()):
            yield name
        if any("increase(" in expr for expr in marks.values()):  # blind between two windows
            yield name
        if "unless on (target)" not in marks["Engine restarts"]:  # the container has a mark
            yield name


def links_to_the_exporter_use_its_variable(boards: Boards) -> Iterator[str]:
    for name, model in boards.items():
        urls = [link.get("url", "") for link in model["links"]]
        if any(url.startswith("http") for url in urls) or "${exporter}/" not in urls:
            yield name
    for one in panels(boards):
        if any(link["url"].startswith("http") for link in one.get("links", ())):
            yield one["title"]


def wanted_pages(one: Panel) -> list[str]:
    """How the names of the runbooks begin of what a panel shows."""
    asked = expressions(one)
    if "ttft" in asked:
        return ["ttft-"]
    if one["type"] == "state-timeline" and "vllm_engine_up" in asked:
        return ["vllm-down", "probe-failing"]
    if re.match(r"\(*max by \(target\) \(vllm_container_docker_up", asked):
        return ["docker-unreachable"]
    return [page for family, page in RUNBOOKS.items() if family in asked]


def what_an_alert_watches_links_to_its_runbook(boards: Boards) -> Iterator[str]:
    for one in panels(boards, *DRAWN):
        pages = [link["url"].rpartition("/runbooks/")[2] for link in one.get("links", ())]
        wanted = tuple(wanted_pages(one))
        if wanted and not any(page.startswith(wanted) for page in pages):
            yield one["title"]


def firing_alerts_lead_to_their_runbooks(boards: Boards) -> Iterator[str]:
    for one in panels({"": boards["overview"]}, "table"):
        links = [link["url"] for own in overridden(one).values() for link in own.get("links", ())]
        if "ALERTS" in expressions(one) and any("/runbooks/" in url for url in links):
            return
    yield "overview"


def a_click_on_a_cell_follows_its_link(boards: Boards) -> Iterator[str]:
    """With several it opens a menu. Nothing that the reader chose is lost on the way."""
    for one in panels(boards, "table"):
        for own in overridden(one).values():
            links = own.get("links", ())
            lost = any(
                "/d/" in to["url"] and "${window:queryparam}" not in to["url"] for to in links
            )
            if len(links) > 1 or lost:
                yield one["title"]
