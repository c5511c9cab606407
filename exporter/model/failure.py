"""Why something did not finish, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureReason(StrEnum):
    """Why a turn, and with it the session, did not finish: the label `reason` of a counter."""

    CONNECTION_REFUSED = "connection_refused"
    CONNECT_FAILED = "connect_failed"  # name resolution, TLS, no route
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"  # noqa: S105 - a reason, not a secret
    STALLED = "stalled"  # too long between two tokens
    TURN_TIMEOUT = "turn_timeout"
    STREAM_CUT = "stream_cut"  # the connection ended before [DONE]
    STREAM_ERROR = "stream_error"  # an error object inside a stream that began with 200
    ABORTED = "aborted"  # finish_reason "abort": the engine is shutting down or dropped the request
    UNAUTHORIZED = "unauthorized"
    MODEL_NOT_FOUND = "model_not_found"
    NO_MODEL = "no_model"  # /v1/models lists none
    PROMPT_TOO_LONG = "prompt_too_long"
    BAD_REQUEST = "bad_request"
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"  # 429 or 503
    PAUSED = "paused"  # the engine says that it is paused
    SCALING = "scaling"  # the engine says that its ranks are being scaled
    ASLEEP = "asleep"  # the engine says that it sleeps
    API_NOT_SERVED = "api_not_served"  # the server lacks the path of `probe.api`
    PROTOCOL = "protocol"  # the answer is not that of an OpenAI server
    NO_DESCRIPTORS = "no_descriptors"  # the exporter has no file descriptor left for a connection
    INTERNAL = "internal"  # an unexpected exception; the log has the trace

    @property
    def concerns_target(self) -> bool:
        """Whether it concerns the whole target, so that every other scenario fails, too."""
        return self not in _OF_ONE_SCENARIO

    @property
    def may_have_arrived(self) -> bool:
        """Whether the engine may have got the request, and so may have computed it."""
        return self not in _NEVER_ARRIVED


_NEVER_ARRIVED = frozenset(
    {
        FailureReason.CONNECTION_REFUSED,
        FailureReason.CONNECT_FAILED,
        FailureReason.CONNECT_TIMEOUT,
        FailureReason.NO_DESCRIPTORS,
        FailureReason.ASLEEP,
        FailureReason.PAUSED,
        FailureReason.SCALING,
    }
)
RESTS = frozenset({FailureReason.ASLEEP, FailureReason.PAUSED, FailureReason.SCALING})
"""What a person or a program asked of the engine: no fault, and it ends when they say so."""
_OF_ONE_SCENARIO = frozenset(
    {
        FailureReason.TURN_TIMEOUT,
        FailureReason.PROMPT_TOO_LONG,
        FailureReason.BAD_REQUEST,
        FailureReason.NO_DESCRIPTORS,
        FailureReason.INTERNAL,
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something did not finish: a reason for labels, and a sentence for a person."""

    reason: FailureReason
    detail: str
