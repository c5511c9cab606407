"""The families that split the engine's counters: the exporter's own share, and that of users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.metrics.readers import by, counter, gauge, of_users, one
from exporter.metrics.state.target import live_users

if TYPE_CHECKING:
    from exporter.metrics.readers import Family
    from exporter.metrics.state.target import TargetState

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
        one(lambda t: t.own.hit_tokens if t.own.settled else None),
        "Those of vllm_probe_queried_tokens_total that came from the cache, as far as known. The "
        "exporter's share of vllm_engine_prefix_cache_hit_tokens_total.",
    ),
    counter(
        "vllm_engine_users_prefix_cache_queried_tokens_total",
        of_users(lambda users: users.queried_tokens),
        "Tokens that users, which is everybody but this exporter, looked up in the prefix cache "
        "since the exporter started: growth of vllm_engine_prefix_cache_queried_tokens_total minus "
        "the exporter's own share. Times with an unknown own share do not count, for example "
        "around a failed request.",
    ),
    counter(
        "vllm_engine_users_prefix_cache_hit_tokens_total",
        of_users(lambda users: users.hit_tokens),
        "Those of vllm_engine_users_prefix_cache_queried_tokens_total that were found in the "
        "cache. It counts the same times.",
    ),
    gauge(
        "vllm_engine_users_prefix_cache_hit_ratio",
        by("window", lambda t: None if (users := live_users(t)) is None else users.hit_ratios()),
        "Hit / queried tokens of users in the window. Absent without users in it.",
    ),
    counter(
        "vllm_engine_users_tokens_saved_total",
        of_users(lambda users: users.saved_tokens),
        "Prompt tokens of users that the engine took from the cache and did not compute, since "
        "the exporter started.",
    ),
)
