"""The families that split the engine's counters: the exporter's own share, and that of users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.engine.metrics.names import TTFT
from exporter.metrics.readers import by, counter, gauge, histogram, of_users, one
from exporter.metrics.state.latency import Distribution
from exporter.metrics.state.target import live_engine, live_users

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.metrics.readers import Family, Value
    from exporter.metrics.state.target import TargetState


def _ttft(target: TargetState) -> Value:
    known = target.users_ttft.total if live_users(target) is not None else None
    seen = live_engine(target)
    if known is None or seen is None or TTFT not in seen.histograms:
        return None
    return Distribution.of(known)


def _effective(target: TargetState) -> Mapping[str, float]:
    users = live_users(target)
    return {} if users is None else users.effective_hit_ratios()


USERS: Final[tuple[Family[TargetState], ...]] = (
    counter(
        "vllm_probe_queried_tokens_total",
        one(lambda t: t.own.queried_tokens if t.own.requests else None),
        "Prompt tokens of the exporter's own requests that the engine looked up in its prefix "
        "cache: turns, cold controls, repeats, isolation and retention. The exporter's share of "
        "vllm_engine_prefix_cache_queried_tokens_total.",
    ),
    counter(
        "vllm_probe_hit_tokens_total",
        one(lambda t: t.own.hit_tokens if t.own.settled and not t.transfers else None),
        "Tokens of vllm_probe_queried_tokens_total that came from the cache, as far as known. The "
        "exporter's share of vllm_engine_prefix_cache_hit_tokens_total, and of "
        "vllm_engine_external_hit_tokens_total where there is an external store.",
    ),
    counter(
        "vllm_probe_cache_written_tokens_total",
        one(lambda t: t.own.written_tokens if t.own.settled and not t.transfers else None),
        "New KV that the exporter's requests left in the cache: prompt minus cached tokens plus "
        "answer, in whole blocks. A prompt whose cached tokens are not known counts in full. "
        "Absent until a server reports cached tokens.",
    ),
    counter(
        "vllm_engine_users_prefix_cache_queried_tokens_total",
        of_users(lambda users: users.queried_tokens),
        "Tokens that users looked up in the prefix cache since the exporter started. Users are all "
        "clients except this exporter: the value is the growth of "
        "vllm_engine_prefix_cache_queried_tokens_total minus the exporter's own share. Growth does "
        "not count while that share is unknown, for example around a failed request.",
    ),
    counter(
        "vllm_engine_users_prefix_cache_hit_tokens_total",
        of_users(lambda users: users.hit_tokens),
        "Tokens of vllm_engine_users_prefix_cache_queried_tokens_total that were found in the "
        "cache.",
    ),
    gauge(
        "vllm_engine_users_prefix_cache_hit_ratio",
        by("window", lambda t: None if (users := live_users(t)) is None else users.hit_ratios()),
        "Hit / queried tokens of users in the window. Absent when no user sent a prompt in it.",
    ),
    counter(
        "vllm_engine_users_external_hit_tokens_total",
        of_users(lambda users: users.external_tokens),
        "Tokens of users that were found in an external tier, since the exporter started: the "
        "growth of vllm_engine_external_hit_tokens_total minus the exporter's own share.",
    ),
    gauge(
        "vllm_engine_users_effective_hit_ratio",
        by("window", _effective),
        "Hits in all tiers / queried tokens of users in the window. Equal to "
        "vllm_engine_users_prefix_cache_hit_ratio where there is no external store. Absent when "
        "external hits are unknown, and when no user sent a prompt in it.",
    ),
    counter(
        "vllm_engine_users_tokens_saved_total",
        of_users(lambda users: users.saved_tokens),
        "Prompt tokens of users that the engine took from its own cache and did not compute, since "
        "the exporter started. Tokens of external tiers do not count.",
    ),
    histogram(
        "vllm_engine_users_ttft_seconds",
        one(_ttft),
        "Times to first token of users, as the engine measures them, since the exporter started: "
        "the growth of vllm_engine_ttft_seconds between two scrapes while no request of the "
        "exporter ran. Growth at other times counts for nobody, because the engine does not say "
        "in which bucket the exporter's own requests are.",
    ),
)
