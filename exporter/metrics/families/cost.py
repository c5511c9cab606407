"""The families of cost: of the probe's requests, of a prompt token, and what the cache saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from exporter.metrics.readers import Reader, by, counter, each_turn, gauge, one
from exporter.metrics.state.target import live_engine, live_users
from exporter.model.probe import PauseReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exporter.analysis.prefill_cost import PrefillCost
    from exporter.metrics.readers import Family, Reading, Value
    from exporter.metrics.state.cost import Savings
    from exporter.metrics.state.target import TargetState


def _paused(target: TargetState) -> Mapping[str, Value]:
    if not target.cost.admission_known:
        return {}
    return {reason: reason is target.cost.paused for reason in PauseReason}


def _turnover(target: TargetState) -> Value:
    known = target.cost.footprint if target.own.settled and not target.transfers else None
    return None if known is None else known.turnover


def _turnover_limit(target: TargetState) -> Value:
    known = target.cost.footprint
    return None if known is None else known.limit_ratio


def _retention(target: TargetState) -> Mapping[str, Value]:
    return {f"{gap:g}": share for gap, share in sorted(target.cost.retention.items())}


def _prefill(value: Callable[[PrefillCost], Value]) -> Reader[TargetState]:
    """Absent, as every value of last sessions, while the target fails."""

    def read(target: TargetState) -> Value:
        known = target.cost.prefill if any(target.finished) else None
        return None if known is None else value(known)

    return one(read)


def _of_all(target: TargetState) -> Savings | None:
    return None if live_engine(target) is None else target.cost.saved


def _of_users(target: TargetState) -> Savings | None:
    return target.cost.users_saved if live_users(target) else None


_Whose = Callable[["TargetState"], "Savings | None"]


def _seconds(whose: _Whose) -> Reader[TargetState]:
    return one(lambda target: None if (saved := whose(target)) is None else saved.seconds)


def _joules(whose: _Whose) -> Reader[TargetState]:
    def read(target: TargetState) -> Value:
        saved = whose(target)
        return None if saved is None else saved.joules_at(target.cost.prices)

    return one(read)


def _money(whose: _Whose) -> Reader[TargetState]:
    def read(target: TargetState) -> Iterator[Reading]:
        saved = whose(target)
        if saved is not None:
            yield (target.cost.prices.currency or "",), saved.money_at(target.cost.prices)

    return Reader(("currency",), read)


COST: Final[tuple[Family[TargetState], ...]] = (
    gauge(
        "vllm_probe_turn_cold_ttft_seconds",
        each_turn(lambda turn: turn.cold_ttft_seconds),
        "Time to first token of this turn's cold control: the same messages with a new salt. Only "
        "for turns with a control that had 0 cached tokens.",
    ),
    gauge(
        "vllm_probe_turn_ttft_saved_seconds",
        each_turn(lambda turn: turn.ttft_saved_seconds),
        "Cold minus warm time to first token of this turn. It can be below 0, because single "
        "times vary. Absent when nothing was cached.",
    ),
    counter(
        "vllm_probe_controls_total",
        by("outcome", lambda t: t.cost.controls),
        "Cold controls sent, by outcome. Only those with the outcome cold are used.",
    ),
    gauge(
        "vllm_probe_retention_ratio",
        by("gap_seconds", _retention),
        "Share of a prefix that is still cached after nobody used it for this time, as last "
        "measured. Absent when unknown.",
    ),
    gauge(
        "vllm_probe_paused",
        by("reason", _paused),
        "1 for the reason why the next session waits now, 0 for the others: requests in the "
        "engine's queue, the usage of its KV cache, the token budget, the footprint in its cache, "
        "an engine that nobody uses (quiet) or that is busy with users (share), or one that "
        "sleeps, is paused or is being scaled.",
    ),
    gauge(
        "vllm_probe_budget_tokens_per_hour",
        one(lambda t: t.cost.budget_tokens_per_hour),
        "The most tokens per hour that the probe may use of this engine, counted as in "
        "vllm_probe_consumed_tokens_total. Absent when there is no limit.",
    ),
    gauge(
        "vllm_probe_cache_turnover_ratio",
        one(_turnover),
        "vllm_probe_cache_written_tokens_total of the last hour, or since the engine started if "
        "that is later, against the capacity of one rank's cache. Absent when one of them is "
        "unknown.",
    ),
    gauge(
        "vllm_probe_cache_turnover_limit_ratio",
        one(_turnover_limit),
        "The most of the cache that the probe may rewrite per hour, as configured. Absent without "
        "a limit, and where the capacity is unknown.",
    ),
    gauge(
        "vllm_engine_prefill_seconds_per_token",
        _prefill(lambda prefill: prefill.seconds_per_token),
        "Time to first token per uncached prompt token: the slope of a robust line through the "
        "probe's last turns. Absent when the slope is less than four standard errors above 0.",
    ),
    gauge(
        "vllm_engine_prefill_seconds_per_token_error",
        _prefill(lambda prefill: prefill.error),
        "Standard error of vllm_engine_prefill_seconds_per_token.",
    ),
    gauge(
        "vllm_engine_prefill_floor_seconds",
        _prefill(lambda prefill: prefill.floor_seconds),
        "Time to first token of a prompt with no token to compute, by the same line. Absent when "
        "the line gives a time below 0.",
    ),
    counter(
        "vllm_engine_prefill_seconds_saved_total",
        _seconds(_of_all),
        "Prefill seconds that the cache saved, for all traffic including the exporter's own: each "
        "growth of vllm_engine_tokens_saved_total times the cost per token known at that time. "
        "Growth before a cost is known does not count.",
    ),
    counter(
        "vllm_engine_prefill_energy_saved_joules_total",
        _joules(_of_all),
        "vllm_engine_prefill_seconds_saved_total times the configured watts, since they were set. "
        "Absent without watts.",
    ),
    counter(
        "vllm_engine_prefill_cost_saved_total",
        _money(_of_all),
        "vllm_engine_prefill_seconds_saved_total in hours times the configured price per hour, "
        "since it was set. Absent without a price.",
    ),
    counter(
        "vllm_engine_users_prefill_seconds_saved_total",
        _seconds(_of_users),
        "Prefill seconds that the cache saved for users: each growth of "
        "vllm_engine_users_tokens_saved_total times the cost per token known at that time.",
    ),
    counter(
        "vllm_engine_users_prefill_energy_saved_joules_total",
        _joules(_of_users),
        "vllm_engine_users_prefill_seconds_saved_total times the configured watts, since they were "
        "set. Absent without watts.",
    ),
    counter(
        "vllm_engine_users_prefill_cost_saved_total",
        _money(_of_users),
        "vllm_engine_users_prefill_seconds_saved_total in hours times the configured price per "
        "hour, since it was set. Absent without a price.",
    ),
)
