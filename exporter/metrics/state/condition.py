"""The condition of a target in one word, for the page, its title, its list and the API. Pure.

Only a target without a known problem is "up" and green. The first rule that holds decides, and a
rule that explains others comes before them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from exporter.container.decide.policy import ENGINE_FAILURES
from exporter.container.decide.records import Cause, LifecycleState
from exporter.metrics.state.target import live_engine
from exporter.model.probe import PauseReason
from exporter.model.session import Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.metrics.state.session_signs import SessionSigns
    from exporter.metrics.state.target import TargetState


Tone = Literal["good", "warn", "bad", "waiting"]


class Condition(StrEnum):
    """Field `state` of a target in the API."""

    UP = "up"  # no rule holds
    NOT_PROBED = "not_probed"  # no session has ended yet
    STARTING = "starting"  # its container is on its way up
    HELD = "held"  # an operator has put the container on hold
    ASLEEP = "asleep"  # or paused, or being scaled: requests wait or are refused until that ends
    BUSY = "busy"  # it works, but is too slow for health checks and sessions
    ADDRESS_WRONG = "address_wrong"  # its container is up, but the URL does not lead to it
    FAILING = "failing"  # the last session failed
    SCENARIO_FAILING = "scenario_failing"  # of one scenario; sessions of others finish
    CONTAINER_DOWN = "container_down"  # sessions finish, but its container is not up
    WEDGED = "wedged"  # the cache no longer hits
    PREFIX_UNSTABLE = "prefix_unstable"  # the template rewrites history; most is lost
    PREFIX_CHANGED = "prefix_changed"  # the template rewrites history; most is still cached
    CACHING_OFF = "caching_off"
    NOT_HITTING = "not_hitting"  # prompts repeat, but no token comes from the cache
    LOSING = "losing"  # the cache serves less than it could
    HITS_HIDDEN = "hits_hidden"  # the engine counts hits that its answers do not report
    NOT_ISOLATED = "not_isolated"  # a cache salt does not keep prompts apart
    SEVERAL_ENGINES = "several_engines"  # behind one URL, each with its own cache
    CACHE_UNKNOWN = "cache_unknown"  # the server does not report cached tokens


class Look(NamedTuple):
    """How the page shows a condition."""

    words: str
    tone: Tone  # chooses the colour
    counted: str  # the word in the summary, as in "2 targets: 1 up, 1 failing"


LOOKS: Final[Mapping[Condition, Look]] = {
    Condition.FAILING: Look("Failing", "bad", "failing"),
    Condition.ADDRESS_WRONG: Look("Failing: wrong address", "bad", "failing"),
    Condition.CONTAINER_DOWN: Look("Unhealthy: container not up", "bad", "unhealthy"),
    Condition.WEDGED: Look("Unhealthy: cache wedged", "bad", "unhealthy"),
    Condition.PREFIX_UNSTABLE: Look("Unhealthy: template rewrites history", "bad", "unhealthy"),
    Condition.SCENARIO_FAILING: Look("Unhealthy: a scenario fails", "bad", "unhealthy"),
    Condition.PREFIX_CHANGED: Look("Template rewrites history", "warn", "with a warning"),
    Condition.BUSY: Look("Too busy to answer in time", "warn", "with a warning"),
    Condition.CACHING_OFF: Look("Prefix caching is off", "warn", "with a warning"),
    Condition.NOT_HITTING: Look("Cache hits nothing", "warn", "with a warning"),
    Condition.LOSING: Look("Loses cached tokens", "warn", "with a warning"),
    Condition.HITS_HIDDEN: Look("Up, hits not reported", "warn", "with a warning"),
    Condition.NOT_ISOLATED: Look("Salts do not isolate", "warn", "with a warning"),
    Condition.SEVERAL_ENGINES: Look("Several engines answer", "warn", "with a warning"),
    Condition.CACHE_UNKNOWN: Look("Up, cache unknown", "warn", "with a warning"),
    Condition.UP: Look("Up", "good", "up"),
    Condition.STARTING: Look("Starting", "waiting", "starting"),
    Condition.HELD: Look("Held by an operator", "waiting", "held"),
    Condition.ASLEEP: Look("Asleep, paused or being scaled", "waiting", "asleep or paused"),
    Condition.NOT_PROBED: Look("No session has ended yet", "waiting", "not probed yet"),
}
COUNTED: Final = tuple(dict.fromkeys(look.counted for look in LOOKS.values()))
"""The words of the summary, the worst first."""


def condition(state: TargetState) -> Condition:
    """The condition of the first rule that holds."""
    return next((found for found, holds in RULES if holds(state)), Condition.UP)


def not_serving(state: TargetState) -> str | None:
    """Why an engine should get no requests and may be restarted; None if nothing shows that.

    A refused key or model, an overload and an engine that rests are no reasons: the engine answers,
    and a restart changes nothing.
    """
    found = condition(state)
    last = state.latest.failure if state.latest is not None else None
    if found is Condition.FAILING and last is not None and last.reason in ENGINE_FAILURES:
        return last.reason
    return found if found is Condition.WEDGED else None


def _failing(state: TargetState) -> bool:
    """The last session or heartbeat failed, and no scenario's last session finished."""
    last = state.latest
    return last is not None and last.failure is not None and not any(state.finished)


def _in(*states: LifecycleState) -> Callable[[TargetState], bool]:
    """The container is in one of these states."""
    return lambda state: state.container is not None and state.container.state in states


def _only_in(*states: LifecycleState) -> Callable[[TargetState], bool]:
    """The container is in one of these states, and no session has finished since."""
    holds = _in(*states)
    return lambda state: holds(state) and not _finished_since(state)


def _finished_since(state: TargetState) -> bool:
    """A session finished after the container entered its state."""
    since = float("-inf") if state.container is None else state.container.since_time
    return any(each.started_time + each.duration_seconds > since for each in state.finished)


def _address_wrong(state: TargetState) -> bool:
    found = None if state.container is None else state.container.diagnosis
    return found is not None and found.cause is Cause.ADDRESS


_RESTS = frozenset({PauseReason.ASLEEP, PauseReason.PAUSED, PauseReason.SCALING})


def _asleep(state: TargetState) -> bool:
    view = live_engine(state)
    by_page = view is not None and view.snapshot is not None and view.snapshot.asleep is True
    return by_page or state.cost.paused in _RESTS


def _scenario_fails(state: TargetState) -> bool:
    return any(each.failure is not None for each in state.scenarios.values())


def _shows(sign: Callable[[SessionSigns], bool]) -> Callable[[TargetState], bool]:
    """The last session of a scenario finished and has the sign."""
    return lambda state: any(sign(each) for each in state.finished_signs)


def _noticed(notice: Notice) -> Callable[[TargetState], bool]:
    return lambda state: any(notice in each.notices for each in state.finished)


def _several(state: TargetState) -> bool:
    """A session found several engines, or the engine's /metrics shows several."""
    view = live_engine(state)
    page = view.snapshot if view is not None else None
    by_page = page is not None and len(page.parts) > 1 and not page.own_pages
    return by_page or _noticed(Notice.MIXED)(state)


def _hits_nothing(state: TargetState) -> bool:
    """There were turns that could hit, and all of them got no token from the cache."""
    could = [each for each in state.finished_signs if each.could_hit]
    return bool(could) and all(each.missed_all for each in could)


RULES: Final[tuple[tuple[Condition, Callable[[TargetState], bool]], ...]] = (
    (Condition.ASLEEP, _asleep),
    (
        Condition.STARTING,
        _only_in(LifecycleState.PULLING, LifecycleState.CREATING, LifecycleState.STARTING),
    ),
    (Condition.HELD, _only_in(LifecycleState.HELD)),
    (Condition.ADDRESS_WRONG, _address_wrong),
    (Condition.BUSY, _only_in(LifecycleState.BUSY)),
    (Condition.FAILING, _failing),
    (Condition.NOT_PROBED, lambda state: state.latest is None),
    (
        Condition.CONTAINER_DOWN,
        _in(
            LifecycleState.ABSENT,
            LifecycleState.UNHEALTHY,
            LifecycleState.STOPPING,
            LifecycleState.BACKING_OFF,
        ),
    ),
    (Condition.WEDGED, lambda state: state.wedged is True),
    (Condition.PREFIX_UNSTABLE, _shows(lambda session: session.serves_little)),
    (Condition.SCENARIO_FAILING, _scenario_fails),
    (Condition.CACHING_OFF, _noticed(Notice.PREFIX_CACHING_DISABLED)),
    (Condition.SEVERAL_ENGINES, _several),
    (Condition.HITS_HIDDEN, _shows(lambda session: session.hides_hits)),
    (Condition.NOT_HITTING, _hits_nothing),
    (Condition.LOSING, _shows(lambda session: session.loses)),
    (Condition.PREFIX_CHANGED, _shows(lambda session: session.broken)),
    (Condition.CACHE_UNKNOWN, lambda state: all(each.unknown for each in state.finished_signs)),
    (Condition.NOT_ISOLATED, _noticed(Notice.SALT_IGNORED)),
)
