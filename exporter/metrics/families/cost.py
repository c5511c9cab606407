"""The families of what the probe costs, what prefill costs, and what the cache saved thereby."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from exporter.metrics.readers import Family, Reader, by, each_turn, one
from exporter.metrics.state.target import live_engine, live_users
from exporter.model.probe import PauseReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exporter.analysis.prefill_cost import PrefillCost
    from exporter.metrics.readers import Reading, Value
    from exporter.metrics.state.cost import Savings
    from exporter.metrics.state.target import TargetState


def _paused(target: TargetState) -> Mapping[str, Value]:
    if not target.cost.admission_known:
        return {}
    return {str(reason): float(reason is target.cost.paused) for reason in PauseReason}


def _retention(target: TargetState) -> Mapping[str, Value]:
    return {f"{gap:g}": share for gap, share in sorted(target.cost.retention.items())}


def _per_token(target: TargetState) -> Value:
    prefill = _prefill(target)
    return None if prefill is None else prefill.seconds_per_token


def _prefill(target: TargetState) -> PrefillCost | None:
    """As every value of last sessions, it goes when the target fails."""
    return target.cost.prefill if any(target.finished) else None


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
            yield (target.cost.currency,), saved.money_at(target.cost.prices)

    return Reader(("currency",), read)


PROBE_COST: Final[tuple[Family[TargetState], ...]] = (
    Family(
        "vllm_probe_turn_cold_ttft_seconds",
        "gauge",
        each_turn(lambda turn: turn.cold_ttft_seconds),
        "Time to first token of the cold control of this turn: the same messages under a salt "
        "never used. Only of turns drawn for a control, and only where it had 0 cached tokens.",
    ),
    Family(
        "vllm_probe_turn_ttft_saved_seconds",
        "gauge",
        each_turn(lambda turn: turn.ttft_saved_seconds),
        "Cold minus warm time to first token of this turn. Below 0 where chance outweighs what was "
        "saved. Absent where nothing was cached.",
    ),
    Family(
        "vllm_probe_controls_total",
        "counter",
        by("outcome", lambda t: {str(k): v for k, v in t.cost.controls.items()}),
        "Cold controls sent, by outcome; only those of outcome cold count.",
    ),
    Family(
        "vllm_probe_retention_ratio",
        "gauge",
        by("gap_seconds", _retention),
        "Share of a prefix still cached after nobody used it for that long, when last measured. "
        "Absent where unknown.",
    ),
    Family(
        "vllm_probe_paused",
        "gauge",
        by("reason", _paused),
        "1 for what holds the next session back now: requests in the engine's queue, the usage of "
        "its KV cache, the budget, or that it sleeps or is paused.",
    ),
    Family(
        "vllm_probe_budget_tokens_per_hour",
        "gauge",
        one(lambda t: t.cost.budget_tokens_per_hour),
        "The most that the probe may ask of this engine, in tokens as "
        "vllm_probe_consumed_tokens_total counts them. Absent where there is no limit.",
    ),
)

ENGINE_COST: Final[tuple[Family[TargetState], ...]] = (
    Family(
        "vllm_engine_prefill_seconds_per_token",
        "gauge",
        one(_per_token),
        "Time to first token per uncached prompt token, the slope of a robust line through the "
        "probe's last turns. Absent where the slope is not four standard errors above 0.",
    ),
    Family(
        "vllm_engine_prefill_seconds_per_token_error",
        "gauge",
        one(lambda t: None if (fitted := _prefill(t)) is None else fitted.error),
        "Standard error of vllm_engine_prefill_seconds_per_token.",
    ),
    Family(
        "vllm_engine_prefill_floor_seconds",
        "gauge",
        one(lambda t: None if (fitted := _prefill(t)) is None else fitted.floor_seconds),
        "Time to first token that the same line says of a prompt with nothing to compute. Absent "
        "where it says less than nothing.",
    ),
    Family(
        "vllm_engine_prefill_seconds_saved_total",
        "counter",
        _seconds(_of_all),
        "Prefill seconds that all traffic, the exporter's own too, did not need thanks to the "
        "cache: each growth of "
        "vllm_engine_tokens_saved_total times the cost per token known then. Growth while none was "
        "known is left out.",
    ),
    Family(
        "vllm_engine_prefill_energy_saved_joules_total",
        "counter",
        _joules(_of_all),
        "vllm_engine_prefill_seconds_saved_total times the watts of the configuration, from the "
        "time on when they were set. Absent without them.",
    ),
    Family(
        "vllm_engine_prefill_cost_saved_total",
        "counter",
        _money(_of_all),
        "vllm_engine_prefill_seconds_saved_total in hours times the price per hour of the "
        "configuration, from the time on when it was set. Absent without it.",
    ),
    Family(
        "vllm_engine_users_prefill_seconds_saved_total",
        "counter",
        _seconds(_of_users),
        "Prefill seconds that users did not need thanks to the cache: each growth of "
        "vllm_engine_users_tokens_saved_total times the cost per token known then.",
    ),
    Family(
        "vllm_engine_users_prefill_energy_saved_joules_total",
        "counter",
        _joules(_of_users),
        "vllm_engine_users_prefill_seconds_saved_total times the watts of the configuration, from "
        "the time on when they were set. Absent without them.",
    ),
    Family(
        "vllm_engine_users_prefill_cost_saved_total",
        "counter",
        _money(_of_users),
        "vllm_engine_users_prefill_seconds_saved_total in hours times the price per hour of the "
        "configuration, from the time on when it was set. Absent without it.",
    ),
)
