"""Hand-made records for the tests of what is published."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.container.decide.records import (
    Cause,
    ContainerSnapshot,
    ContainerStatus,
    ContainerView,
    Diagnosis,
    LifecycleState,
)
from exporter.model.engine import (
    CacheConfig,
    EngineInfo,
    EngineSnapshot,
    EngineTotals,
    EngineView,
    Histogram,
    ScrapeFailure,
)
from exporter.model.failure import Failure, FailureReason
from exporter.model.reuse import ReuseRule, RuleCause, RuleLoss
from exporter.model.session import (
    BreakReason,
    Control,
    ControlOutcome,
    Loss,
    LossCause,
    Notice,
    PrefixBreak,
    PrefixStability,
    SessionResult,
    TurnFacts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

STARTED = 1_767_225_600.25  # 2026-01-01 00:00:00.250 UTC


def turn(
    index: int,
    prompt: int | None,
    cached: int | None,
    ideal: int | None,
    *,
    completion: int | None = 32,
    ttft: float | None = 0.25,
    latency: float = 1.5,
    gaps: tuple[float, ...] = (),
    cause: LossCause = LossCause.UNEXPLAINED,
    gives_up: int | None = 0,
    rule: RuleCause = RuleCause.SPECULATIVE_DECODING,
) -> TurnFacts:
    """The facts of a turn, consistent as those of exporter.analysis.turn_facts are.

    `gives_up` is what the engine's reuse rule gives up of the ideal; None: the rule is unknown.
    Then a loss is named only if no rule can explain it.
    """
    attainable = None if ideal is None or gives_up is None else ideal - gives_up
    expected = ideal if attainable is None else attainable
    lost = 0 if cached is None or expected is None else max(0, expected - cached)
    if attainable is None and cause in (LossCause.UNEXPLAINED, LossCause.OTHER_RANK):
        lost = 0
    return TurnFacts(
        index=index,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        hit_ratio=None if cached is None or not prompt else cached / prompt,
        tokens_saved=cached,
        ideal_cached_tokens=ideal,
        attainable_cached_tokens=attainable,
        efficiency_ratio=None if cached is None or not attainable else cached / attainable,
        ttft_seconds=ttft,
        latency_seconds=latency,
        inter_token_seconds=gaps,
        loss=Loss(lost, cause, "caching is on and the engine was not restarted") if lost else None,
        rule_losses=(RuleLoss(gives_up, rule),) if attainable is not None and gives_up else (),
    )


TURNS = (
    turn(1, 1000, 0, 0, ttft=0.5, latency=2.0, gaps=(0.01, 0.02)),
    turn(2, 1250, 992, 992, ttft=0.0625, latency=1.75, gaps=(0.01,)),
    turn(3, 1500, 1024, 1280, ttft=0.125, latency=1.5),
)


STABLE = PrefixStability(stable=True, turns_compared=2)

EAGLE = ReuseRule(unit_tokens=32, dropped_blocks=1, answers_kept=True, lookahead_tokens=0)
EAGLE_TURNS = (
    turn(1, 1000, 0, 0, ttft=0.5),
    turn(2, 1250, 960, 992, gives_up=32, ttft=0.0625),
    turn(3, 1500, 1248, 1280, gives_up=32, ttft=0.125),
)


def session(
    *turns: TurnFacts,
    target: str = "local",
    scenario: str = "coding-agent",
    failure: Failure | None = None,
    failed_turn: int | None = None,
    started: float = STARTED,
    duration: float = 8.0,
    simulated: bool = False,
    notices: frozenset[Notice] = frozenset(),
    model: str | None = "tiny",
    prefix: PrefixStability | None = STABLE,
    extra_tokens: int = 0,
    reuse_rule: ReuseRule | None = None,
    data_parallel_rank: int | None = None,
) -> SessionResult:
    return SessionResult(
        target=target,
        scenario=scenario,
        simulated=simulated,
        model=model,
        engine_version="0.32.0",
        started_time=started,
        duration_seconds=duration,
        turns=turns,
        failure=failure,
        failed_turn=failed_turn,
        data_parallel_rank=data_parallel_rank,
        notices=notices,
        prefix=prefix,
        extra_tokens=extra_tokens,
        reuse_rule=reuse_rule,
    )


BREAK = PrefixBreak(
    turn=2,
    token_index=14,
    sequence_tokens=1032,
    reason=BreakReason.SYSTEM_PROMPT_MOVED,
    message=1,
    role="system",
    before="<|im_start|>user\n",
    earlier="You are a careful engineer",
    later="Customers say that",
)
UNSTABLE = PrefixStability(stable=False, turns_compared=2, first_break=BREAK)


def failed_session(
    *turns: TurnFacts,
    target: str = "local",
    scenario: str = "coding-agent",
    reason: FailureReason = FailureReason.CONNECTION_REFUSED,
    detail: str = "127.0.0.1:8000 refused the connection",
    started: float = STARTED,
) -> SessionResult:
    return session(
        *turns,
        target=target,
        scenario=scenario,
        failure=Failure(reason, detail),
        failed_turn=len(turns) + 1,
        started=started,
        duration=0.5,
    )


CACHE = CacheConfig(
    match_unit_tokens=32,
    block_size=32,
    prefix_caching=True,
    num_blocks=1024,
    capacity_tokens=32768,
)
INFO = EngineInfo(model="tiny", max_model_len=8192, version="0.32.0", simulated=False)


def snapshot(
    *,
    cache: CacheConfig | None = CACHE,
    hit_rate_gauge: float | None = None,
    ranks: int = 1,
    prompt_tokens_by_rank: Mapping[int, float] | None = None,
) -> EngineSnapshot:
    return EngineSnapshot(
        at=10.0,
        scrape_seconds=0.004,
        ranks=ranks,
        prompt_tokens_by_rank=prompt_tokens_by_rank or {},
        model_names=("tiny",),
        process_start_time=STARTED - 600,
        queried_tokens=5000.0,
        hit_tokens=4000.0,
        cached_prompt_tokens=4000.0,
        prompt_tokens=5100.0,
        generation_tokens=640.0,
        preemptions=2.0,
        kv_cache_usage_ratio=0.25,
        requests_running=3.0,
        requests_waiting=1.0,
        hit_rate_gauge=hit_rate_gauge,
        cache=cache,
    )


TOTALS = EngineTotals(
    queried_tokens=5000.0,
    hit_tokens=4000.0,
    saved_tokens=3900.0,
    prompt_tokens=5100.0,
    generation_tokens=640.0,
    preemptions=2.0,
    external_queried_tokens=1000.0,
    external_hit_tokens=500.0,
    cached_by_source={"device": 4000.0, "host": 480.0, "p2p": 20.0},
)


RESIDENCY = Histogram((1.0, 10.0), (1.0, 4.0, 6.0), 120.0)
ENGINE_TTFT = Histogram((0.5, 2.5), (10.0, 30.0, 40.0), 44.0)
HISTOGRAMS = {
    "ttft": ENGINE_TTFT,
    **dict.fromkeys(("lifetime", "idle_before_evict", "reuse_gap"), RESIDENCY),
}


def engine_view(
    *,
    target: str = "local",
    totals: EngineTotals = TOTALS,
    info: EngineInfo | None = INFO,
    cache: CacheConfig | None = CACHE,
    hit_rate_gauge: float | None = None,
    restarts: int = 1,
) -> EngineView:
    return EngineView(
        target=target,
        snapshot=snapshot(cache=cache, hit_rate_gauge=hit_rate_gauge),
        failure=None,
        totals=totals,
        hit_ratios={"1m": 0.5, "1h": 0.8},
        effective_hit_ratios={"1m": 0.6, "1h": 0.9},
        restarts=restarts,
        info=info,
        histograms=HISTOGRAMS,
    )


def failed_engine_view(*, target: str = "local", totals: EngineTotals = TOTALS) -> EngineView:
    return EngineView(
        target=target,
        snapshot=None,
        failure=ScrapeFailure(at=20.0, reason="timeout", detail="no whole page within 3 s"),
        totals=totals,
        hit_ratios={},
        restarts=1,
        info=INFO,
    )


def container_view(
    *,
    target: str = "local",
    state: LifecycleState = LifecycleState.BACKING_OFF,
    exit_code: int | None = 137,
    diagnosed: bool = True,
    **changes: object,
) -> ContainerView:
    fields: dict[str, object] = {
        "target": target,
        "mode": "managed",
        "state": state,
        "since_time": STARTED,
        "snapshot": ContainerSnapshot(
            id="c0ffee",
            name="vllm-local",
            image="vllm/vllm-openai:v0.32.0",
            image_id="sha256:1234",
            status=ContainerStatus.EXITED,
            exit_code=exit_code,
            oom_killed=True,
            error="",
            started_time=STARTED - 100,
            finished_time=STARTED,
        ),
        "diagnosis": Diagnosis(
            cause=Cause.OOM_KILLED,
            summary="the kernel killed it at its memory limit",
            advice="Give the container more memory.",
            evidence="OOMKilled: true, exit code 137",
        )
        if diagnosed
        else None,
        "docker_problem": None,
        "next_attempt_time": STARTED + 30,
        "pull": None,
        "config_drift": False,
        "startup_seconds": 61.5,
        "restarts": {"oom_killed": 2},
        "start_failures": {"port_taken": 1},
        "oom_kills": 2,
        "model_loads": 3,
        "health_failures": 4,
    }
    return ContainerView(**(fields | changes))  # type: ignore[arg-type]


def measured(per_token: float = 0.0002, sessions: int = 4) -> list[SessionResult]:
    """Sessions on one line: prefill costs `per_token` seconds, the floor is 20 ms."""
    lengths = ((1000, 0), (1250, 992), (1500, 1232), (1700, 1488))
    turns = [
        turn(index, prompt, cached, cached, ttft=0.02 + per_token * (prompt - cached))
        for index, (prompt, cached) in enumerate(lengths, start=1)
    ]
    cold = Control(ControlOutcome.COLD, True, 1250, 32, 0.02 + per_token * 1250)
    turns[1] = replace(turns[1], control=cold)
    return [session(*turns)] * sessions
