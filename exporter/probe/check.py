"""`check`: every test once against one engine, with an isolation test and one session."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.errors import EngineUnavailableError
from exporter.model.failure import RESTS, FailureReason
from exporter.probe.isolation import run_isolation_test
from exporter.probe.replicas import own_info
from exporter.probe.session.plan import SessionHooks
from exporter.probe.session.runner import SessionRunner
from exporter.wording.findings import engine, isolation, session
from exporter.wording.findings.finding import (
    CheckReport,
    CheckTest,
    Finding,
    failed,
    passed,
    unknown,
)
from exporter.wording.notices import advice_at_terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.model.engine import EngineInfo
    from exporter.model.session import SessionResult
    from exporter.probe.engine_requests import EngineRequests
    from exporter.probe.session.plan import SessionPlan

TESTS = tuple(test for test in CheckTest if test not in (CheckTest.AWAKE, CheckTest.KV_EVENTS))
"""The tests of every engine."""

_ANSWERED = frozenset(
    {
        *(FailureReason.UNAUTHORIZED, FailureReason.MODEL_NOT_FOUND, FailureReason.NO_MODEL),
        *(FailureReason.SERVER_ERROR, FailureReason.OVERLOADED, FailureReason.BAD_REQUEST),
        FailureReason.PROTOCOL,
    }
)
"""Failures that show that something answers at the address."""


_ISOLATION_TOKENS = 1024
"""The least tokens of the isolation test's prompt. A check runs once, so it may take more room."""
NOT_TRIED = "not tried"
"""The evidence of the tests that an engine without an answer makes impossible."""
_AT_REST = "not tried: the engine sleeps, is paused or is being scaled"


class Check:
    """Tests one engine. `on_finding` gets each finding as soon as it is known."""

    def __init__(
        self,
        plan: SessionPlan,
        requests: EngineRequests,
        new_salt: Callable[[], str],
        *,
        on_finding: Callable[[Finding], None] = lambda _finding: None,
        hooks: SessionHooks | None = None,
        max_turnover: float = 0.0,
    ) -> None:
        """`hooks` are those of its session; `max_turnover` is the setting
        `probe.max_cache_turnover_per_hour`.
        """
        self._plan = plan
        self._requests = requests
        self._client = requests.client
        self._new_salt = new_salt
        self._on_finding = on_finding
        self._hooks = SessionHooks() if hooks is None else hooks
        self._max_turnover = max_turnover
        self._found: list[Finding] = []

    async def run(self) -> CheckReport:
        """Run every test. Tests that an earlier failure makes impossible are unknown."""
        clock = self._requests.clock
        started_time, started_at = clock.time(), clock.monotonic()
        self._found = []
        info: EngineInfo | None = None
        try:
            info = await self._client.info()
        except EngineUnavailableError as error:
            self._refused(error)
        else:
            self._add(passed(CheckTest.REACHABLE, f"{self._client.url} answers"))
            info = await self._test(info)
        return CheckReport(
            url=self._client.url,
            started_time=started_time,
            duration_seconds=clock.monotonic() - started_at,
            info=info,
            findings=tuple(self._found),
        )

    async def _test(self, info: EngineInfo) -> EngineInfo:
        view = await self._requests.observe()
        info = own_info(info, view)
        self._add(
            engine.of_model(info),
            engine.of_version(info, view),
            engine.of_metrics(view),
            engine.of_flags(view),
            engine.of_prefix_caching(view),
        )
        asleep = view is not None and view.snapshot is not None and view.snapshot.asleep
        rest = await self._requests.rest(view)
        if rest is not None:
            self._add(engine.of_match_unit(view), engine.resting(rest, by_metrics=asleep is True))
            self._not_tried(_AT_REST)
            return info
        # First: its second request hits on a healthy engine. From then on it is known what an
        # answer without cached tokens means.
        test = await run_isolation_test(
            *(self._requests, info, self._plan.deadlines, self._new_salt),
            least_tokens=_ISOLATION_TOKENS,
        )
        before = self._requests.share
        played = await SessionRunner(self._plan, self._requests, self._new_salt).play(self._hooks)
        knowledge = self._requests.knowledge
        test = replace(test, possible=knowledge.repeat_hit(test.prompt_tokens or 0))
        if not self._requests.ranks.obeyed and view is not None and view.snapshot is not None:
            # Only the session showed that a rank did not get what was sent to it.
            test = replace(test, ranks=view.snapshot.ranks)
        self._add(
            engine.of_match_unit(view, played.reuse_rule),
            session.of_engines(played),
            session.of_usage_details(played),
            session.of_token_ids(played),
            session.of_first_turn(played),
            engine.of_reuse_rule(played.reuse_rule, view, reported=_reported(played)),
            session.of_second_turn(played),
            session.of_prefix(played),
        )
        self._add(isolation.of_isolation(test), isolation.of_wedge(test, played))
        written = self._requests.share.written_tokens - before.written_tokens
        self._add(engine.of_footprint(view, written, self._max_turnover))
        events = self._requests.kv_events
        if events is not None:
            blocks = events.blocks if played.turns else None
            self._add(engine.of_kv_events(events.view, blocks))
        return info

    def _refused(self, error: EngineUnavailableError) -> None:
        """Add what went wrong, and every other test as unknown."""
        reason = FailureReason(error.reason)
        advice = advice_at_terminal(reason)
        if reason in RESTS:
            self._add(passed(CheckTest.REACHABLE, f"{self._client.url} answers"))
            self._add(engine.resting(reason))
            self._not_tried(_AT_REST)
            return
        if reason in _ANSWERED:
            self._add(passed(CheckTest.REACHABLE, f"{self._client.url} answers"))
            self._add(failed(CheckTest.MODEL, error.detail, advice))
        else:
            self._add(failed(CheckTest.REACHABLE, error.detail, advice))
        self._not_tried(NOT_TRIED)

    def _not_tried(self, why: str) -> None:
        done = {one.name for one in self._found}
        names = TESTS if self._requests.kv_events is None else (*TESTS, CheckTest.KV_EVENTS)
        self._add(*(unknown(name, why) for name in names if name not in done))

    def _add(self, *found: Finding) -> None:
        for one in found:
            self._found.append(one)
            self._on_finding(one)


def _reported(session: SessionResult) -> bool:
    """Whether the cached tokens of a turn are known. Without a turn that is not known."""
    return not session.turns or any(one.cached_tokens is not None for one in session.turns)
