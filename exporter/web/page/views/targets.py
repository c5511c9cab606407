"""Makes the status page's records of the targets. Pure."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from exporter.analysis.session_totals import session_totals
from exporter.metrics.state.condition import COUNTED, LOOKS, Condition, Look, condition
from exporter.metrics.state.target import (
    effective_hit_ratios,
    external_hit_tokens,
    live_engine,
)
from exporter.model.session import Notice
from exporter.web.page.views.problems import problems_of
from exporter.web.page.views.records import Link, OverviewRow, Page, TargetSection
from exporter.web.page.views.sentences import (
    footprint_in_words,
    last_heartbeat,
    probe_waits,
    time_saved,
)
from exporter.web.page.views.sessions import (
    loss_rows,
    rule_rows,
    session_rows,
    session_section,
    trend,
)
from exporter.wording.notices import ADVICE
from exporter.wording.reuse_rules import rule_in_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.metrics.history import History
    from exporter.metrics.state.target import TargetState
    from exporter.web.page.views.records import PageLinks

EARLIER_SESSIONS = 8
SECTIONS = 4
"""At most so many targets have a section, those with problems first; the others are only in the
overview, with a link. So the page stays below 100 kB."""
OVERVIEW_ROWS = 100
"""Targets in the overview of one page: they take 30 kB and a few milliseconds."""
TREND_SESSIONS = 50


def page(
    targets: Mapping[str, TargetState],
    history: History,
    now: float,
    links: PageLinks,
    *,
    only: str | None,
    number: int,
) -> Page:
    """The page at Unix time `now`: of `only` one target, or page `number`, from 1. Both exist."""
    wanted = list(targets.values()) if only is None else [targets[only]]
    conditions = {state.name: condition(state) for state in wanted}
    ranks = {state.name: _rank(state, conditions[state.name]) for state in wanted}
    states = _of_page(number, wanted, ranks)
    detailed = _with_section(states, ranks)
    return Page(
        now=now,
        summary=_summary([LOOKS[each].counted for each in conditions.values()]),
        simulated=tuple(state.name for state in states if state.simulated),
        links=_page_links(links, only, len(targets)),
        caption=_caption(number, len(wanted)),
        other_pages=_other_pages(number, len(wanted)),
        overview=_overview(states, detailed, conditions) if len(states) > 1 else (),
        without_section=len(states) - len(detailed),
        targets=tuple(
            _section(state, conditions[state.name], history, now, links, alone=len(detailed) == 1)
            for state in detailed
        ),
    )


def page_count(targets: int) -> int:
    """The number of pages for so many targets."""
    return max(1, -(-targets // OVERVIEW_ROWS))


def _of_page(number: int, states: list[TargetState], ranks: Mapping[str, int]) -> list[TargetState]:
    if len(states) <= OVERVIEW_ROWS:
        return states
    ranked = sorted(states, key=lambda state: ranks[state.name])
    return ranked[(number - 1) * OVERVIEW_ROWS : number * OVERVIEW_ROWS]


def _caption(number: int, count: int) -> str:
    if page_count(count) == 1:
        return "All targets, with their last session"
    first, last = (number - 1) * OVERVIEW_ROWS + 1, min(number * OVERVIEW_ROWS, count)
    return f"Targets {first} to {last} of {count}, with their last session; problems first"


def _other_pages(number: int, count: int) -> tuple[Link, ...]:
    last = page_count(count)
    wanted = {"first": 1, "previous": number - 1, "next": number + 1, "last": last}
    return tuple(
        Link(text, f"?page={other}")
        for text, other in wanted.items()
        if last > 1 and 1 <= other <= last and other != number
    )


def _with_section(states: Sequence[TargetState], ranks: Mapping[str, int]) -> list[TargetState]:
    """The targets that have a section, in the order of `states`."""
    names = sorted((state.name for state in states), key=lambda name: ranks[name])
    chosen = set(names[:SECTIONS])
    return [state for state in states if state.name in chosen]


def _rank(state: TargetState, found: Condition) -> int:
    """Targets with problems first, then those with a warning."""
    tone = LOOKS[found].tone
    return 0 if tone == "bad" or problems_of(state, found) else 1 if tone == "warn" else 2


def _summary(counted: Sequence[str]) -> str:
    if not counted:
        return "No targets."
    parts = [f"{counted.count(word)} {word}" for word in COUNTED if word in counted]
    noun = "target" if len(counted) == 1 else "targets"
    return f"{len(counted)} {noun}: {', '.join(parts)}."


def _page_links(links: PageLinks, only: str | None, count: int) -> tuple[Link, ...]:
    found = [Link(f"all {count} targets", "./")] if only is not None and count > 1 else []
    found += [
        Link("metrics", "metrics"),
        Link("sessions", "api/v1/sessions"),
        Link("targets", "api/v1/targets"),
        Link("API", "api/v1/openapi.json"),
        Link("readiness", "-/ready"),
        Link("runbooks", "runbooks/"),
    ]
    if links.grafana_url is not None:
        found.append(Link("Grafana", f"{links.grafana_url}/d/{_OVERVIEW_DASHBOARD}"))
    return tuple(found)


# From grafana/names.py: the addresses of dashboards do not change.
_OVERVIEW_DASHBOARD, _SESSION_DASHBOARD = "vllm-cache-overview", "vllm-cache-session"


def _overview(
    states: Sequence[TargetState],
    detailed: Sequence[TargetState],
    conditions: Mapping[str, Condition],
) -> tuple[OverviewRow, ...]:
    places = {state.name: place for place, state in enumerate(detailed, start=1)}
    return tuple(
        _overview_row(state, LOOKS[conditions[state.name]], places.get(state.name))
        for state in states
    )


def _overview_row(state: TargetState, look: Look, place: int | None) -> OverviewRow:
    last = state.last_session
    turns = () if last is None else last.turns
    warm = [
        turn.ttft_seconds for turn in turns if turn.cached_tokens and turn.ttft_seconds is not None
    ]
    return OverviewRow(
        state=state,
        look=look,
        anchor=f"?{_query('target', state.name)}" if place is None else f"#target-{place}",
        totals=session_totals(turns),
        warm_ttft_seconds=median(warm) if warm else None,
        ended_time=None if last is None else last.started_time + last.duration_seconds,
    )


def _section(
    state: TargetState,
    found: Condition,
    history: History,
    now: float,
    links: PageLinks,
    *,
    alone: bool,
) -> TargetSection:
    last = state.last_session
    totals = session_totals(() if last is None else last.turns)
    sessions = history.sessions(state.name, TREND_SESSIONS)
    rows = session_rows(sessions)
    return TargetSection(
        state=state,
        look=LOOKS[found],
        problems=tuple(problems_of(state, found)),
        notices=tuple(
            ADVICE[notice]
            for notice in state.notices
            # The banner shows the first one, and problems show the others.
            if notice not in (Notice.SIMULATED, Notice.PREFIX_UNSTABLE, Notice.CACHE_WEDGED)
        ),
        engine=live_engine(state),
        with_store=effective_hit_ratios(state) if external_hit_tokens(state) else {},
        probe_waits=probe_waits(state.cost, now),
        footprint=footprint_in_words(state.cost.footprint) if state.own.settled else None,
        heartbeat=last_heartbeat(state, now),
        time_saved=time_saved(sessions),
        session=None if last is None else session_section(last, totals, alone=alone),
        losses=loss_rows(
            totals.lost_by, state.sums.lost_tokens, state.sums.attainable_cached_tokens
        ),
        rule_losses=rule_rows(
            totals.rule_lost_by,
            state.sums.rule_lost_tokens,
            state.sums.ideal_cached_tokens,
            state.reuse_rule,
        ),
        reuse_rule=None if state.reuse_rule is None else rule_in_words(state.reuse_rule),
        trend=trend(rows),
        earlier=rows[1 : EARLIER_SESSIONS + 1],
        links=_target_links(state, links),
    )


def _target_links(state: TargetState, links: PageLinks) -> tuple[Link, ...]:
    query = _query("target", state.name)
    found = [Link("sessions as JSON", f"api/v1/sessions?{query}")]
    if links.pictures and state.last_session is not None and state.last_session.turns:
        found.append(Link("last session as a picture", f"report.png?{query}"))
    if links.grafana_url is not None:
        dashboard = f"{links.grafana_url}/d/{_SESSION_DASHBOARD}"
        found.append(Link("sessions in Grafana", f"{dashboard}?{_query('var-target', state.name)}"))
    return tuple(found)


def _query(parameter: str, target: str) -> str:
    return urlencode({parameter: target}, errors="replace")
