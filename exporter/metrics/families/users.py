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
        "Tokens of vllm_probe_queried_tokens_total that came from the cache, as far as known. The "
        "exporter's share of vllm_engine_prefix_cache_hit_tokens_total.",
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
        "vllm_engine_users_tokens_saved_total",
        of_users(lambda users: users.saved_tokens),
        "Prompt tokens of users that the engine took from the cache and did not compute, since "
        "the exporter started.",
    ),
)
