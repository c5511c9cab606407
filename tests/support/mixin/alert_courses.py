"""For each alert, series that make it fire just past its threshold, as a function of the settings.

All series have a value per minute and three parts: good, bad, good again. Target `a` is the one
that fires. Targets named `near…` are bad too, but stay just within the threshold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alert_course import Course, minutes

from mixin.words import bucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from mixin.settings import Settings

STEP = 0.01
COURSES: dict[str, Callable[[Settings], Course]] = {}


def course(**parts: Any) -> Callable[[Callable[[Settings, Course], Any]], None]:
    """Registers the course of the alert that the function is named after. A part may be a function.

    `vllm_exporter_down` is the course of VllmExporterDown.
    """

    def register(fill: Callable[[Settings, Course], Any]) -> None:
        alert = fill.__name__.title().replace("_", "")

        def make(settings: Settings) -> Course:
            given = {key: p(settings) if callable(p) else p for key, p in parts.items()}
            made = Course(settings, alert, **given)
            fill(settings, made)
            return made

        COURSES[alert] = make

    return register


def gauge_of(alert: str, series: str, good: float | None, bad: float) -> None:
    """The course of an alert that looks at one gauge and has no threshold of its own."""
    COURSES[alert] = lambda settings: Course(settings, alert).gauge(series, good, bad)


gauge_of("VllmCacheWedged", 'vllm_probe_cache_wedged{target="a"}', 0, 1)
for _alert, _notice in (
    ("VllmCacheIsolationLeak", "salt_ignored"),
    ("VllmUsageDetailsMissing", "usage_details_missing"),
):
    gauge_of(_alert, f'vllm_probe_notice{{target="a", notice="{_notice}"}}', 0, 1)
for _alert, _reason in (
    ("VllmContainerAddressWrong", "address"),
    ("VllmContainerNotOurs", "name_taken"),
    ("VllmWrongModel", "wrong_model"),
    ("VllmRestartLimitReached", "restart_limit"),
):
    gauge_of(_alert, f'vllm_container_diagnosis{{target="a", reason="{_reason}"}}', 0, 1)
gauge_of("VllmProbeFailing", 'vllm_probe_up{target="a"}', 1, 0)
gauge_of("VllmDown", 'vllm_engine_up{target="a"}', 1, 0)
gauge_of("VllmReplicaUnreadable", 'vllm_engine_replica_up{target="a", replica="x"}', 1, 0)
gauge_of("VllmDockerUnreachable", 'vllm_container_docker_up{target="a"}', 1, 0)


@course(firing=("",))
def vllm_exporter_down(_, c):
    c.gauge('up{job="vllm-cache-exporter"}', 1, 0)


@course(firing=("",))
def vllm_exporter_config_reload_failed(_, c):
    c.gauge("vllm_exporter_config_last_reload_successful", 1, 0)


@course(firing=("",), tail=10, at_once=False)
def vllm_exporter_loop_failing(_, c):
    c.counter('vllm_exporter_loop_failures_total{loop="probe:a"}', 0, 1)


@course(firing=("",), bad=6, tail=6, at_once=False)
def vllm_exporter_discovery_failing(_, c):
    labels = '{job="e", instance="i", source="dns"}'
    c.counter(f"vllm_exporter_discovery_failures_total{labels}", 0, 1)
    c.clock(f"vllm_exporter_discovery_last_success_timestamp_seconds{labels}", 0, stops=True)


@course()
def vllm_hit_ratio_low(s, c):
    per_minute = 60 * (s.hit_ratio.min_users_tokens_per_second + 10)
    low, good = s.hit_ratio.low, s.hit_ratio.good
    ratio = "vllm_engine_users_prefix_cache_hit_ratio"
    for target, bad, rate, best in (
        ("a", low - STEP, per_minute, good),
        ("near", low, per_minute, good),
        ("near quiet", low - STEP, per_minute - 60 * 11, good),
        ("near never", low - STEP, per_minute, good - STEP),
    ):
        c.gauge(f'{ratio}{{target="{target}", window="1m"}}', good, bad)
        c.constant(f'{ratio}{{target="{target}", window="5m"}}', best)
        queried = "vllm_engine_users_prefix_cache_queried_tokens_total"
        c.counter(f'{queried}{{target="{target}"}}', rate, rate)


def _session(c: Course, target: str, good: float, bad: float, attainable: float) -> None:
    labels = f'{{target="{target}", scenario="s", turn="2"}}'
    c.gauge(f"vllm_probe_turn_tokens_saved{labels}", 10_000 * good, round(10_000 * bad))
    c.constant(f"vllm_probe_turn_prompt_tokens{labels}", 10_000)
    for part in ("ideal", "attainable"):
        c.constant(f"vllm_probe_turn_{part}_hit_ratio{labels}", attainable)


@course()
def vllm_probe_hit_ratio_low(s, c):
    low, good = s.hit_ratio.low, s.hit_ratio.good
    _session(c, "a", good, low - STEP, good)
    _session(c, "near", good, low, good)
    _session(c, "near large blocks", low, low - STEP, good - STEP)
    for target, share in (("heart", -STEP), ("near heart", STEP)):
        labels = f'{{target="{target}", scenario="heartbeat", turn="2"}}'
        served = 4000 * (s.hit_ratio.heartbeat_share + share)
        c.gauge(f"vllm_probe_turn_tokens_saved{labels}", 4000, served)
        c.constant(f"vllm_probe_turn_prompt_tokens{labels}", 10_000)
        c.constant(f"vllm_probe_turn_attainable_hit_ratio{labels}", 0.4)
    c.firing = ('target="a"', 'target="heart"')


@course(
    bad=lambda s: minutes(s.efficiency.window),
    tail=lambda s: minutes(s.efficiency.window),
    at_once=False,
)
def vllm_cache_efficiency_low(s, c):
    allowed = 1000 * (1 - s.efficiency.low)
    for target, lost in (("a", allowed + 10), ("near", allowed - 10)):
        c.counter(f'vllm_probe_lost_tokens_total{{target="{target}", cause="evicted"}}', 0, lost)
        attainable = f'vllm_probe_attainable_cached_tokens_total{{target="{target}"}}'
        c.counter(attainable, 1000, 1000)


@course()
def vllm_prefix_unstable(s, c):
    good = s.hit_ratio.good
    for target, ratio in (("a", good - STEP), ("near", good)):
        c.gauge(f'vllm_probe_prefix_stable{{target="{target}", scenario="s"}}', 1, 0)
        _session(c, target, good, ratio, 1)


@course(tail=30)
def vllm_salt_test_leaked(_, c):
    c.events('vllm_probe_isolation_leaks_total{target="a"}', 1)
    c.counter('vllm_probe_isolation_tests_total{target="a"}', 1, 1)


@course()
def vllm_cache_retention_short(s, c):
    low, longest = s.retention.low, s.retention.longest_gap_seconds
    for target, gap, bad in (
        ("a", longest, low - STEP),
        ("near", longest, low),
        ("near longer", longest + 1, 0),
    ):
        c.gauge(f'vllm_probe_retention_ratio{{target="{target}", gap_seconds="{gap}"}}', 1, bad)


def _burn(s: Settings, c: Course, name: str) -> None:
    burn = getattr(s.ttft, name)
    budget = 1 - s.ttft.objective_ratio
    enough = (burn.min_turns + 2) / minutes(burn.short_window) * 1.2
    for target, share, turns in (
        ("a", burn.burn_rate * budget + STEP, enough),
        ("near", burn.burn_rate * budget - STEP, enough),
        ("near few", 1, (burn.min_turns - 1) / minutes(burn.short_window)),
    ):
        c.counter(f'vllm_probe_ttft_seconds_count{{target="{target}", cache="warm"}}', turns, turns)
        le = bucket(s.ttft.bound_seconds)
        quick = f'vllm_probe_ttft_seconds_bucket{{target="{target}", cache="warm", le="{le}"}}'
        c.counter(quick, turns, turns * (1 - share))


def _burn_of_users(s: Settings, c: Course, name: str) -> None:
    burn = getattr(s.ttft, name)
    budget = 1 - s.users_ttft.objective_ratio
    least, over = s.users_ttft.min_requests, minutes(burn.short_window)
    family = "vllm_engine_users_ttft_seconds"
    for target, share, each_minute in (
        ("a", burn.burn_rate * budget + STEP, (least + 2) / over * 1.2),
        ("near", burn.burn_rate * budget - STEP, (least + 2) / over * 1.2),
        ("near few", 1, (least - 1) / over),
    ):
        c.counter(f'{family}_count{{target="{target}"}}', each_minute, each_minute)
        quick = f'{family}_bucket{{target="{target}", le="{bucket(s.users_ttft.bound_seconds)}"}}'
        c.counter(quick, each_minute, each_minute * (1 - share))


def _windows(name: str) -> dict[str, Any]:
    return {
        "bad": lambda s: minutes(getattr(s.ttft, name).long_window),
        "tail": lambda s: minutes(getattr(s.ttft, name).short_window),
        "at_once": False,
    }


@course(**_windows("fast"))
def vllm_ttft_budget_burns_fast(s, c):
    _burn(s, c, "fast")


@course(**_windows("slow"))
def vllm_ttft_budget_burns_slowly(s, c):
    _burn(s, c, "slow")


@course(**_windows("fast"))
def vllm_users_ttft_budget_burns_fast(s, c):
    _burn_of_users(s, c, "fast")


@course(**_windows("slow"))
def vllm_users_ttft_budget_burns_slowly(s, c):
    _burn_of_users(s, c, "slow")


@course(before=1600, bad=30, tail=30, at_once=False)
def vllm_ttft_regression(s, c):
    """A median of 50 ms, from turns of up to 0.1 s. The share of these in bad times moves it."""
    limit = s.ttft_regression.factor * 0.05 + s.ttft_regression.margin_seconds
    # Turns above 0.1 s take up to 1 s here, so that a share p of them gives 0.1 + 0.9 * (p - 0.5) / p.
    above = 0.5 / (1 - (limit - 0.1) / 0.9) if limit > 0.1 else None
    for target, sign in (("a", 1), ("near", -1)):
        slow = above + sign * STEP if above else 1 - 0.05 / limit + sign * STEP
        for le, bad in (("0.1", 100 * (1 - slow)), ("1.0", 100), ("+Inf", 100)):
            labels = f'{{target="{target}", cache="warm", le="{le}"}}'
            c.counter(f"vllm_probe_ttft_seconds_bucket{labels}", 100, bad)
        labels = f'{{target="{target}", cache="warm"}}'
        c.counter(f"vllm_probe_ttft_seconds_count{labels}", 100, 100)


@course()
def vllm_probe_scenario_failing(_, c):
    c.constant('vllm_probe_scenario_up{target="a", scenario="one"}', 1)
    c.gauge('vllm_probe_scenario_up{target="a", scenario="two"}', 1, 0)


@course(bad=lambda s: minutes(max(s.stale.session_seconds, s.stale.heartbeat_seconds)))
def vllm_probe_stale(s, c):
    session, heartbeat = (
        f"vllm_probe_{kind}_due_timestamp_seconds" for kind in ("session", "heartbeat")
    )
    every = "vllm_probe_heartbeat_interval_seconds"
    for target in ("a", "heart", "near", "near heart", "near rare"):
        c.constant(f'vllm_probe_up{{target="{target}"}}', 1)
    c.clock(f'{session}{{target="a"}}', 0, stops=True)
    c.clock(f'{session}{{target="near"}}', s.stale.session_seconds)
    c.clock(f'{heartbeat}{{target="heart"}}', 0, stops=True)
    c.clock(f'{heartbeat}{{target="near heart"}}', s.stale.heartbeat_seconds)
    c.clock(f'{heartbeat}{{target="near rare"}}', s.stale.heartbeat_intervals * 7200)
    for target, seconds in (("heart", 1), ("near heart", 1), ("near rare", 7200)):
        c.constant(f'{every}{{target="{target}"}}', seconds)
    c.firing = ('target="a"', 'target="heart"')


@course()
def vllm_metrics_unreadable(s, c):
    session, heartbeat = (
        f"vllm_probe_{kind}last_success_timestamp_seconds" for kind in ("", "heartbeat_")
    )
    for target, family, behind in (
        ("a", session, s.serving.session_seconds - 1),
        ("heart", heartbeat, s.serving.heartbeat_seconds - 1),
        ("near", session, s.serving.session_seconds),
        ("near heart", heartbeat, s.serving.heartbeat_seconds),
    ):
        c.gauge(f'vllm_engine_up{{target="{target}"}}', 1, 0)
        c.constant(f'vllm_probe_up{{target="{target}"}}', 1)
        c.clock(f'{family}{{target="{target}"}}', behind)
    c.firing = ('target="a"', 'target="heart"')


@course()
def vllm_kv_cache_saturated(s, c):
    for target, usage in (("a", s.kv_cache.full + STEP), ("near", s.kv_cache.full)):
        c.gauge(f'vllm_engine_kv_cache_usage_ratio{{target="{target}"}}', 0.1, usage)
        c.constant(f'vllm_engine_requests_waiting{{target="{target}"}}', 1)


@course(
    bad=lambda s: s.crash_loop.restarts,
    tail=lambda s: minutes(s.crash_loop.window),
    at_once=False,
)
def vllm_crash_loop(s, c):
    for target, restarts in (("a", s.crash_loop.restarts), ("near", s.crash_loop.restarts - 1)):
        c.events(f'vllm_engine_restarts_total{{target="{target}"}}', restarts)


@course(tail=10)
def vllm_out_of_memory(_, c):
    c.events('vllm_container_oom_kills_total{target="a"}', 1)


@course(tail=10)
def vllm_start_failing(_, c):
    c.events('vllm_container_start_failures_total{target="a", reason="port_taken"}', 1)
    c.gauge('vllm_container_state{target="a", state="ready"}', 1, 0)
