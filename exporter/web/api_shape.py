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

documented = with_config(JSON)
Count = Annotated[int, Field(ge=0)]


@documented
class TargetFailureJson(FailureJson):
    """Why the last session of a target did not finish, and what to do."""

    advice: str


@documented
class NoticeJson(TypedDict):
    """What a reader of the last session's numbers must know."""

    notice: Notice
    advice: str


@documented
class ScrapeFailureJson(TypedDict):
    """Why the engine's own metrics cannot be read."""

    reason: str
    detail: str


@documented
class UsersJson(TypedDict):
    """Tokens of all clients except this exporter, since the exporter started. Null is unknown."""

    queried_tokens: float | None
    hit_tokens: float | None
    saved_tokens: float | None
    hit_ratios: dict[str, Ratio]
    """By window (1m, 5m, 1h). A window without their traffic is absent."""


@documented
class EngineJson(TypedDict):
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
    users: UsersJson
    lookups_recounted: bool
    """In the last hour it counted more lookups than its prompts explain. They are left out."""
    restarts: Count


@documented
class DiagnosisJson(TypedDict):
    """Why a container is not ready."""

    cause: Cause
    summary: str
    advice: str
    evidence: str


@documented
class ContainerJson(TypedDict):
    """A container that the exporter creates or watches."""

    state: LifecycleState
    since: JsonTime
    image: str | None
    docker_problem: DockerProblem | None
    diagnosis: DiagnosisJson | None
    restarts: dict[str, Count]
    """By cause, since the exporter started."""


@documented
class CostJson(TypedDict):
    """The probe's token budget, the cost of a prompt token, and what caching saved."""

    paused: PauseReason | None
    budget_tokens_per_hour: Count | None
    """Null: no limit."""
    prefill_seconds_per_token: float | None
    prefill_seconds_per_token_error: float | None
    prefill_seconds_saved: float | None
    """Of all traffic, including the probe's."""
    users_prefill_seconds_saved: float | None
    retention_ratios: dict[str, Ratio]
    """The share of a prefix that is still cached, by the seconds that it was not used."""


@documented
class TargetJson(TypedDict):
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


@documented
class SessionsJson(TypedDict):
    """The stored sessions, newest first."""

    sessions: list[SessionResult]


@documented
class TargetsJson(TypedDict):
    """All targets."""

    targets: list[TargetJson]


@documented
class HttpSdGroupJson(TypedDict):
    """One page for Prometheus to scrape, in the format of http_sd."""

    targets: list[str]
    """Host and port of this exporter."""
    labels: dict[str, str]
    """`target`, and the path and parameters of its page."""


@documented
class ErrorJson(TypedDict):
    """What is wrong with a request, and what is allowed."""

    error: str
