"""The JSON shapes of the HTTP API, except that of a session. Unknown is null.

api.py builds these types, and the OpenAPI description is generated from them, so the docstrings of
classes and keys are public.
"""

# No `from __future__ import annotations`: pydantic reads these at run time.
from typing import Annotated

from pydantic import Field, with_config
from typing_extensions import TypedDict

from exporter.container.decide.records import Cause, DockerProblem, LifecycleState
from exporter.metrics.state.condition import Condition
from exporter.model.json_fields import JSON, JsonTime, Ratio
from exporter.model.probe import PauseReason
from exporter.model.session import FailureJson, Notice, SessionResult

Count = Annotated[int, Field(ge=0)]


@with_config(JSON)
class _Json(TypedDict):
    """The shapes below inherit this configuration."""


class TargetFailureJson(FailureJson):
    """Why the last session of a target did not finish, and what to do."""

    advice: str


class NoticeJson(_Json):
    """What a reader of the last session's numbers must know."""

    notice: Notice
    advice: str


class ScrapeFailureJson(_Json):
    """Why the engine's own metrics cannot be read."""

    reason: str
    detail: str


class UsersJson(_Json):
    """Tokens of all clients except this exporter, since the exporter started. Null is unknown."""

    queried_tokens: float | None
    hit_tokens: float | None
    saved_tokens: float | None
    hit_ratios: dict[str, Ratio]
    """By window (1m, 5m, 1h). A window without their traffic is absent."""
    external_hit_tokens: float | None
    """Found in a tier below the engine's own cache, such as a KV store."""
    effective_hit_ratios: dict[str, Ratio]
    """With hits in external tiers."""


class EngineJson(_Json):
    """What an engine's /metrics, /version and /v1/models reported last."""

    up: bool
    failure: ScrapeFailureJson | None
    version: str | None
    engines: Count
    """The engines on the page: more than 1 if a router serves it."""
    model: str | None
    max_model_len: int | None
    prefix_caching: bool | None
    block_size: int | None
    match_unit_tokens: int | None
    """The cached tokens of a hit are a multiple of this."""
    capacity_tokens: int | None
    hit_ratios: dict[str, Ratio]
    """Of all traffic, including the probe's, by window (1m, 5m, 1h)."""
    effective_hit_ratios: dict[str, Ratio]
    """With hits in external tiers."""
    external_hit_tokens: float | None
    """Of all traffic, found in a tier below the engine's own cache. Transfers do not count."""
    users: UsersJson
    lookups_recounted: bool
    """In the last hour it counted more lookups than its prompts explain. They are left out."""
    restarts: Count


class DiagnosisJson(_Json):
    """Why a container is not ready."""

    cause: Cause
    summary: str
    advice: str
    evidence: str


class ContainerJson(_Json):
    """A container that the exporter creates or watches."""

    state: LifecycleState
    since: JsonTime
    image: str | None
    docker_problem: DockerProblem | None
    diagnosis: DiagnosisJson | None
    restarts: dict[str, Count]
    """By cause, since the exporter started."""


class CostJson(_Json):
    """The probe's token budget, the cost of a prompt token, and what caching saved."""

    paused: PauseReason | None
    budget_tokens_per_hour: Count | None
    """Null: no limit."""
    cache_turnover_ratio: float | None
    """The share of the cache that the probe rewrote within the last hour."""
    prefill_seconds_per_token: float | None
    prefill_seconds_per_token_error: float | None
    prefill_seconds_saved: float | None
    """Of all traffic, including the probe's."""
    users_prefill_seconds_saved: float | None
    retention_ratios: dict[str, Ratio]
    """The share of a prefix that is still cached, by the seconds that it was not used."""


class TargetJson(_Json):
    """The current state of one target."""

    target: str
    mode: str
    """`managed`, `attached` or `external`."""
    url: str | None
    up: bool | None
    """Whether the last session finished. Null until the first has ended."""
    failure: TargetFailureJson | None
    last_session_started: JsonTime | None
    simulated: bool | None
    sessions: Count
    notices: list[NoticeJson]
    engine: EngineJson | None
    container: ContainerJson | None
    cost: CostJson
    state: Condition
    """The condition of the target in one word; only `up` is healthy."""


class SessionsJson(_Json):
    """The stored sessions, newest first."""

    sessions: list[SessionResult]


class TargetsJson(_Json):
    """All targets."""

    targets: list[TargetJson]


class HttpSdGroupJson(_Json):
    """One page for Prometheus to scrape, in the format of http_sd."""

    targets: list[str]
    """Host and port of this exporter."""
    labels: dict[str, str]
    """`target`, and the path and parameters of its page."""


class ErrorJson(_Json):
    """What is wrong with a request, and what is allowed."""

    error: str
