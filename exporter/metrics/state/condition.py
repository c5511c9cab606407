"""How a target is, in one word: what the page, its title, its list and the API all say. Pure.

Only what is known to be well is called up and is green. The rules are asked in their order, and the
first that holds says it: what explains the rest comes first.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

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

    UP = "up"
    NOT_PROBED = "not_probed"  # no session has ended yet
    STARTING = "starting"  # its container is being started
    HELD = "held"  # an operator said: hands off
    ASLEEP = "asleep"  # or paused: requests wait until somebody ends that
    BUSY = "busy"  # too slow for its checks and for sessions, and it works
    ADDRESS_WRONG = "address_wrong"  # its container is up, and nothing of it is reached at the URL
    FAILING = "failing"  # the last session failed
    SCENARIO_FAILING = "scenario_failing"  # that of one scenario did, those of others get through
    CONTAINER_DOWN = "container_down"  # sessions get through, and its container is not up
    WEDGED = "wedged"  # the cache has stopped hitting
    PREFIX_UNSTABLE = "prefix_unstable"  # the chat template rewrites history, and little is served
    PREFIX_CHANGED = "prefix_changed"  # it does, and most is served all the same
    CACHING_OFF = "caching_off"
    NOT_HITTING = "not_hitting"  # prompts repeat, and not one token comes from the cache
    LOSING = "losing"  # the cache serves less than it could
    HITS_HIDDEN = "hits_hidden"  # the engine counts hits that its answers do not tell
    NOT_ISOLATED = "not_isolated"  # a cache salt does not keep prompts apart
    SEVERAL_ENGINES = "several_engines"  # at one URL, each with a cache of its own
    CACHE_UNKNOWN = "cache_unknown"  # the server does not say how many tokens were cached


class Look(NamedTuple):
    """What a person reads of one target, its colour, and the word under which it is counted."""

    words: str
    tone: Tone
    counted: str


_UP: Final = Look("Up", "good", "up")
LOOKS: Final[Mapping[Condition, Look]] = {
    Condition.FAILING: Look("Failing", "bad", "failing"),
    Condition.ADDRESS_WRONG: Look("Failing: wrong address", "bad", "failing"),
    Condition.CONTAINER_DOWN: Look("Unwell: container not up", "bad", "unwell"),
    Condition.WEDGED: Look("Unwell: cache wedged", "bad", "unwell"),
    Condition.PREFIX_UNSTABLE: Look("Unwell: template rewrites history", "bad", "unwell"),
    Condition.SCENARIO_FAILING: Look("Unwell: a scenario fails", "bad", "unwell"),
    Condition.PREFIX_CHANGED: Look("Template rewrites history", "warn", "with a warning"),
    Condition.BUSY: Look("Too busy to answer in time", "warn", "with a warning"),
    Condition.CACHING_OFF: Look("Prefix caching is off", "warn", "with a warning"),
    Condition.NOT_HITTING: Look("Cache hits nothing", "warn", "with a warning"),
    Condition.LOSING: Look("Loses cached tokens", "warn", "with a warning"),
    Condition.HITS_HIDDEN: Look("Up, hits not reported", "warn", "with a warning"),
    Condition.NOT_ISOLATED: Look("Salts do not isolate", "warn", "with a warning"),
    Condition.SEVERAL_ENGINES: Look("Several engines answer", "warn", "with a warning"),
    Condition.CACHE_UNKNOWN: Look("Up, cache unknown", "warn", "with a warning"),
    Condition.UP: _UP,
    Condition.STARTING: Look("Starting", "waiting", "starting"),
    Condition.HELD: Look("Held by an operator", "waiting", "held"),
    Condition.ASLEEP: Look("Asleep or paused", "waiting", "asleep or paused"),
    Condition.NOT_PROBED: Look("No session has ended yet", "waiting", "not probed yet"),
}
COUNTED: Final = tuple(dict.fromkeys(look.counted for look in LOOKS.values()))
"""The words of a summary in their order: the worst first."""


def condition(state: TargetState) -> Condition:
    """The first that holds, of those that explain the others first."""
    return next((found for found, holds in RULES if holds(state)), Condition.UP)


def _failing(state: TargetState) -> bool:
    """The last session failed, and there is no scenario whose last session finished."""
    last = state.last_session
    return last is not None and last.failure is not None and not any(state.finished)


def _in(*states: LifecycleState) -> Callable[[TargetState], bool]:
    """Whether the container is in one of these states."""
    return lambda state: state.container is not None and state.container.state in states


def _only_in(*states: LifecycleState) -> Callable[[TargetState], bool]:
    """The same, and no session has finished since."""
    holds = _in(*states)
    return lambda state: holds(state) and not _finished_since(state)


def _finished_since(state: TargetState) -> bool:
    """Whether a session finished after the container came into its state."""
    since = float("-inf") if state.container is None else state.container.since_time
    return any(each.started_time + each.duration_seconds > since for each in state.finished)


def _address_wrong(state: TargetState) -> bool:
    found = None if state.container is None else state.container.diagnosis
    return found is not None and found.cause is Cause.ADDRESS


def _asleep(state: TargetState) -> bool:
    view = live_engine(state)
    by_page = view is not None and view.snapshot is not None and view.snapshot.asleep is True
    return by_page or state.cost.paused is PauseReason.ASLEEP


def _scenario_fails(state: TargetState) -> bool:
    return any(each.failure is not None for each in state.scenarios.values())


def _shows(sign: Callable[[SessionSigns], bool]) -> Callable[[TargetState], bool]:
    """Whether the last session of a scenario has a sign, if it finished."""
    return lambda state: any(sign(each) for each in state.finished_signs)


def _noticed(notice: Notice) -> Callable[[TargetState], bool]:
    return lambda state: any(notice in each.notices for each in state.finished)


def _several(state: TargetState) -> bool:
    """By the session, or by a /metrics that has the series of several."""
    view = live_engine(state)
    by_page = view is not None and view.snapshot is not None and len(view.snapshot.parts) > 1
    return by_page or _noticed(Notice.MIXED)(state)


def _hits_nothing(state: TargetState) -> bool:
    """Turns that could have hit, and not one token of any of them from the cache."""
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
    (Condition.NOT_PROBED, lambda state: state.last_session is None),
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
    (Condition.NOT_ISOLATED, _noticed(Notice.SALT_IGNORED)),
    (Condition.CACHE_UNKNOWN, lambda state: all(each.unknown for each in state.finished_signs)),
)
