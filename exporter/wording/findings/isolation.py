"""What `check` found of an isolation test: whether salts isolate, and whether the cache still hits.

Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.reuse.repeated_prompt import RepeatOutcome
from exporter.analysis.wedge import wedge_of, wedged_by
from exporter.model.session import LossCause, Notice
from exporter.wording import numbers
from exporter.wording.findings.finding import (
    TRANSFER,
    UNREPORTED,
    CheckTest,
    Finding,
    failed,
    passed,
    unknown,
)
from exporter.wording.notices import ADVICE, LOSS_ADVICE

if TYPE_CHECKING:
    from exporter.analysis.isolation import IsolationTest
    from exporter.model.session import SessionResult


def of_isolation(test: IsolationTest) -> Finding:
    name = CheckTest.ISOLATION
    if (gone := _not_run(name, test)) is not None:
        return gone
    if test.salt_refused:
        return unknown(name, "the server refuses cache_salt", ADVICE[Notice.SALT_REFUSED])
    if test.leaked:
        return _leaked(test, test.leaked)
    if test.leaked is None or test.same_salt_cached is None:
        return unknown(name, UNREPORTED)
    same = test.same_salt_cached or test.third_cached or test.overlap_cached
    if not same:
        return unknown(name, "the same salt did not hit either, so another salt proves nothing")
    text = f"the same salt hit {numbers.tokens(same)}, another salt none"
    if test.mixed:
        return unknown(name, f"{text}; but several engines answer at this URL")
    if test.ranks is not None and test.ranks > 1:
        text = f"{text}; but the request may have run on another of the {test.ranks} ranks"
        return unknown(name, text, LOSS_ADVICE[LossCause.OTHER_RANK])
    return passed(name, text)


def _leaked(test: IsolationTest, tokens: int) -> Finding:
    """What a hit under a new salt proves of the store, and of the engine's own cache."""
    text = f"a prompt with a new salt was served {numbers.tokens(tokens)} from cache"
    external, other = test.other_salt_external, test.other_salt_cached
    if not external or other is None:
        return failed(
            CheckTest.ISOLATION,
            text,
            "This engine, or a KV store behind it, ignores cache_salt. Upgrade vLLM, or give each "
            "tenant that must not share a cache its own server.",
        )
    own = "none" if other == external else str(other - external)
    return failed(
        CheckTest.ISOLATION,
        f"{text}: {external} from an external KV store and {own} from the engine's own cache",
        "The store ignores cache_salt. Give each tenant that must not share a cache a store and a "
        "server of its own, or use a store that keeps salts apart.",
    )


_EMPTIED = "something emptied the cache in between"
_LATE = "this engine serves a prompt only after it computed it twice"


def of_wedge(test: IsolationTest, session: SessionResult | None = None) -> Finding:
    """Whether the cache still hits, by the same rule as that of a session's losses; `session` was
    played after the test.
    """
    name = CheckTest.WEDGE
    stopped = None if session is None else wedge_of(session.turns)
    if stopped is not None:
        return failed(name, stopped.evidence, LOSS_ADVICE[LossCause.WEDGED])
    if (gone := _not_run(name, test)) is not None:
        return gone
    found, wedged = test.outcome, wedged_by(test)
    if found is None:
        return unknown(name, UNREPORTED)
    outcome, why = found
    sent = f"a prompt of {numbers.tokens(test.prompt_tokens)}, sent twice in a row, hit"
    text = f"{sent} {numbers.count(test.same_salt_cached)}"
    if wedged is False:
        if outcome is RepeatOutcome.UNREPORTED:
            return passed(name, f"{text} by usage, but {why}: the cache works")
        expected = test.possible  # the least by the rule: a hit may be longer
        of_possible = expected is not None and (test.same_salt_cached or 0) <= expected
        possible = f" of {numbers.count(expected)} possible" if of_possible else ""
        return passed(name, f"{text}{possible}")
    if test.third_cached or (test.overlap_cached and outcome is not RepeatOutcome.UNKNOWN):
        return _of_later_hit(test, session, text)
    if outcome is RepeatOutcome.UNKNOWN:
        return unknown(name, f"{text}; {why}")
    text = f"{text} of {numbers.count(test.possible)} possible, with room in the cache; {why}"
    if wedged:
        return failed(name, text, LOSS_ADVICE[LossCause.WEDGED])
    return unknown(
        name, f"{text}: nothing shows that the cache has stopped", LOSS_ADVICE[LossCause.NEVER_HIT]
    )


def _of_later_hit(test: IsolationTest, session: SessionResult | None, text: str) -> Finding:
    """Of a prompt that hit nothing when it was sent again, and hit later."""
    name = CheckTest.WEDGE
    if test.overlap_cached:
        text = f"{text}, and {test.overlap_cached} while it was being answered: nothing has stopped"
        return unknown(name, f"{text}; {_EMPTIED}", LOSS_ADVICE[LossCause.RESET])
    text = f"{text}, and {test.third_cached} when it was sent a third time: nothing has stopped"
    if test.mixed or (session is not None and Notice.MIXED in session.notices):
        return unknown(name, f"{text}; several engines answer at this URL")
    if test.ranks is not None and test.ranks > 1:
        text = f"{text}; it ran on another of the {test.ranks} ranks"
        return unknown(name, text, LOSS_ADVICE[LossCause.OTHER_RANK])
    why = _EMPTIED if test.hit_before else _LATE
    return unknown(
        name,
        f"{text}; {why}, or several engines answer at this URL",
        LOSS_ADVICE[LossCause.RESET if test.hit_before else LossCause.NEVER_HIT],
    )


def _not_run(name: CheckTest, test: IsolationTest) -> Finding | None:
    if test.too_long is not None:
        return unknown(name, test.too_long)
    if test.failure is not None:
        return unknown(name, f"a request failed: {test.failure.reason}: {test.failure.detail}")
    if test.transfer:
        return unknown(name, TRANSFER, ADVICE[Notice.TRANSFER])
    return None
