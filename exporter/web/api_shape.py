"""The JSON shapes of the HTTP API beside a session's. Unknown is null.

As in session_shape.py: the functions that make the answers return these types, and the API's
description is made from them.
"""

# No `from __future__ import annotations`: pydantic reads these at run time.
from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from exporter.container.decide.records import Cause, DockerProblem, LifecycleState
from exporter.metrics.state.condition import Condition
from exporter.model.json_fields import JsonTime, Ratio
from exporter.model.probe import PauseReason
from exporter.model.session import FailureJson, Notice, SessionResult

documented = with_config(ConfigDict(use_attribute_docstrings=True))
Count = Annotated[int, Field(ge=0)]


@documented
class TargetFailureJson(FailureJson):
    """Why the last session of a target did not finish, and what to do."""

    advice: str


@documented
class NoticeJson(TypedDict):
    """Something that a reader of the last session's numbers must know."""

    notice: Notice
    advice: str


@documented
class ScrapeFailureJson(TypedDict):
    """Why the engine's own metrics cannot be read."""

    reason: str
    detail: str


@documented
class UsersJson(TypedDict):
    """What others than this exporter had of an engine since it began, in tokens; null: unknown."""

    queried_tokens: float | None
    hit_tokens: float | None
    saved_tokens: float | None
    hit_ratios: dict[str, Ratio]
    """By window (1m, 5m, 1h); one without their traffic is not there."""


@documented
class EngineJson(TypedDict):
    """What an engine's /metrics, /version and /v1/models said last."""

    up: bool
    failure: ScrapeFailureJson | None
    version: str | None
    engines: Count
    """Those whose series are on the page: more than 1 where a router shows it."""
    model: str | None
    max_model_len: int | None
    prefix_caching: bool | None
    block_size: int | None
    match_unit_tokens: int | None
    """What a hit can land on a multiple of."""
    capacity_tokens: int | None
    hit_ratios: dict[str, Ratio]
    """Of all traffic, the probe's own too, by window (1m, 5m, 1h)."""
    users: UsersJson
    lookups_recounted: bool
    """Within the last hour it counted more lookups than its prompts explain; they are left out."""
    restarts: Count


@documented
class DiagnosisJson(TypedDict):
    """Why a container is not up."""

    cause: Cause
    summary: str
    advice: str
    evidence: str


@documented
class ContainerJson(TypedDict):
    """The life of a container that the exporter makes or watches."""

    state: LifecycleState
    since: JsonTime
    image: str | None
    docker_problem: DockerProblem | None
    diagnosis: DiagnosisJson | None
    restarts: dict[str, Count]
    """By cause, since the exporter began."""


@documented
class CostJson(TypedDict):
    """What the probe may ask of an engine, what a prompt token costs, what caching saved."""

    paused: PauseReason | None
    budget_tokens_per_hour: Count | None
    """Null: no limit."""
    prefill_seconds_per_token: float | None
    prefill_seconds_per_token_error: float | None
    prefill_seconds_saved: float | None
    """Of all traffic, the probe's own too."""
    users_prefill_seconds_saved: float | None
    retention_ratios: dict[str, Ratio]
    """The share of a prefix still cached, by the seconds that it was left alone."""


@documented
class TargetJson(TypedDict):
    """One target, as it is known now."""

    target: str
    mode: str
    """`managed`, `attached` or `external`."""
    url: str | None
    up: bool | None
    """Whether the last session finished; null before the first ended."""
    failure: TargetFailureJson | None
    last_session_started: JsonTime | None
    simulated: bool | None
    sessions: Count
    notices: list[NoticeJson]
    engine: EngineJson | None
    container: ContainerJson | None
    cost: CostJson
    state: Condition
    """How the target is, in one word; only `up` is well."""


@documented
class SessionsJson(TypedDict):
    """The sessions that are kept, newest first."""

    sessions: list[SessionResult]


@documented
class TargetsJson(TypedDict):
    """Every target of the configuration."""

    targets: list[TargetJson]


@documented
class HttpSdGroupJson(TypedDict):
    """One page that Prometheus reads, in the format of its http_sd."""

    targets: list[str]
    """Host and port of this exporter."""
    labels: dict[str, str]
    """`target`, and how its page is asked for."""


@documented
class ErrorJson(TypedDict):
    """What was wrong with a request, and what is allowed."""

    error: str
