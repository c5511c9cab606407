"""Any sequence of faults: hypothesis breaks things, the daemon of the tests repairs them."""

from __future__ import annotations

import hypothesis.strategies as st
from fake_clock import FakeClock
from fake_docker import LIVE, World
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lifecycle_daemon import IMAGE, POLICY, Daemon, policy

from exporter.container.decide.observation import Action
from exporter.container.decide.records import (
    ContainerStatus,
    DockerError,
    DockerProblem,
    LifecycleState,
)


class ContainerLife(RuleBasedStateMachine):
    """A managed target with faults for a while."""

    @initialize(recreate=st.booleans(), has_image=st.booleans())
    def begin(self, *, recreate: bool, has_image: bool) -> None:
        self.world = World(FakeClock())
        self.world.in_registry.add(IMAGE)
        if has_image:
            self.world.images.add(IMAGE)
        # Without a limit: it must be ready within minutes of the last fault.
        on_drift = "recreate" if recreate else "report"
        self.daemon = Daemon(self.world, policy(on_drift=on_drift, restarts_per_hour=1000))
        self.ends = 0  # of running containers, not requested by the daemon

    @rule(seconds=st.sampled_from([1, 5, 40]), jitter=st.floats(0, 1))
    def time_passes(self, seconds: int, jitter: float) -> None:
        self.daemon.jitter = jitter
        for _ in range(seconds):
            self._round()

    @rule()
    def the_daemon_is_killed_and_started_again(self) -> None:
        self.daemon.restart()

    @rule()
    def the_daemon_is_killed_between_a_decision_and_its_action(self) -> None:
        self.daemon.decide()
        self.daemon.restart()

    @precondition(lambda self: self._live())
    @rule(code=st.sampled_from([0, 1, 137, 143]), oom=st.booleans())
    def it_ends(self, code: int, *, oom: bool) -> None:
        self.world.end(self.world.only(), code, oom=oom)

    @precondition(lambda self: self._live())
    @rule()
    def it_falls_ill(self) -> None:
        self.world.only().unhealthy = True

    @precondition(lambda self: self._live())
    @rule()
    def it_is_paused(self) -> None:
        self.world.pause(self.world.only())

    @precondition(lambda self: self.world.containers)
    @rule()
    def it_is_removed(self) -> None:
        self.world.vanish(self.world.only())

    @rule()
    def docker_goes_away(self) -> None:
        self.world.go_down()

    @rule()
    def docker_comes_back(self) -> None:
        self.world.down = None

    @rule(call=st.sampled_from(["create", "start", "stop", "remove", "pull", "unpause"]))
    def docker_refuses(self, call: str) -> None:
        self.world.refuse[call] = DockerError(DockerProblem.API_ERROR, f"{call} does not work")

    @rule()
    def docker_refuses_nothing_any_more(self) -> None:
        self.world.refuse.clear()

    @rule(block=st.sampled_from([16, 32]))
    def the_settings_change_with_a_restart(self, block: int) -> None:
        self.daemon.settings(block_size=block)
        self.daemon.restart()

    @rule(held=st.booleans())
    def an_operator_holds_or_lets_go(self, *, held: bool) -> None:
        self.daemon.held = held

    @rule(seconds=st.sampled_from([None, 5.0, 200.0]))
    def loading_takes(self, seconds: float | None) -> None:
        self.world.load_seconds = seconds

    @rule(after=st.sampled_from([None, 1.0, 60.0]))
    def it_crashes_after(self, after: float | None) -> None:
        self.world.crash_after = after

    @invariant()
    def there_is_never_more_than_one_container(self) -> None:
        assert len(self.world.containers) <= 1

    def teardown(self) -> None:
        """The world becomes kind again: then it must get ready, and stay so."""
        world, daemon = self.world, self.daemon
        world.down = world.crash_after = None
        world.refuse.clear()
        world.load_seconds = 20.0
        daemon.held = False
        daemon.jitter = 0.0
        for container in world.containers.values():
            if container.ready_at is None:  # it was started when loading never ended
                container.ready_at = world.clock.time() + 20.0
        for _ in range(700):
            self._round()
        assert daemon.last.state is LifecycleState.READY
        before = len(daemon.acted)
        for _ in range(300):
            self._round()
            assert daemon.last.state is LifecycleState.READY
        assert daemon.acted[before:] == []
        assert daemon.memory.failures == 0

    def _live(self) -> bool:
        return any(c.status in LIVE for c in self.world.containers.values())

    def _round(self) -> None:
        """One second, with what must hold for each decision."""
        world, daemon = self.world, self.daemon
        serving = world.healthy() and world.down is None
        failures = daemon.memory.failures
        healthy_run = daemon.memory.run if serving else None
        decision = daemon.decide()
        if daemon.held:
            assert (decision.state, decision.action) == (LifecycleState.HELD, Action.NOTHING)
        elif world.down is not None:
            assert (decision.state, decision.action) == (LifecycleState.UNKNOWN, Action.NOTHING)
            assert decision.memory.failures == failures
        if serving and decision.action is Action.STOP:
            # Nothing that answers is stopped, but for settings that are to be followed.
            assert daemon.policy.settings.on_drift == "recreate"
            assert decision.failed is None
        if decision.action in {Action.START, Action.CREATE}:
            not_before = decision.memory.not_before
            assert not_before is None or world.clock.monotonic() >= not_before
        if decision.not_before is not None:
            wait = decision.not_before - world.clock.monotonic()
            assert wait <= daemon.policy.settings.backoff.max_seconds
        if healthy_run is not None and not daemon.held:
            assert decision.state in {LifecycleState.READY, LifecycleState.STOPPING}
        daemon.act(decision)
        world.clock.jump(1.0)

    def __init__(self) -> None:
        super().__init__()
        self.world = World(FakeClock())
        self.daemon = Daemon(self.world, POLICY)


TestLife = ContainerLife.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_status_that_docker_may_show_is_known_to_the_tests():
    assert {ContainerStatus.RUNNING, ContainerStatus.PAUSED} == set(LIVE)
