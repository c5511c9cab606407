"""The faults, and the checks on requests for them.

Each fault is a record whose fields declare their allowed values. Most faults last until they are
cleared; those with a `count` end after that many requests; `crash` and `restart` happen once.
behaviours.py has what servers and gateways do by design; it is activated in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from exporter.errors import ExporterError
from exporter.simulator.faults import behaviours
from exporter.simulator.faults.fault_fields import MANY, UNTIL_CLEARED, Fault, choice, number, whole


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a request for a fault."""

    field: str
    value: object
    allowed: str


class FaultInputError(ExporterError):
    """A request for an unknown fault or with wrong values; `mistakes` lists everything wrong."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__(
            "; ".join(f"{m.field}: got {m.value!r}, allowed: {m.allowed}" for m in mistakes)
        )
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class Crash(Fault):
    """All connections are cut and the port is refused, or the process exits."""

    name: ClassVar[str] = "crash"
    mode: Literal["refuse", "exit"] = choice("refuse", "refuse", "exit")
    exit_code: int = whole(1, 0, 255)
    down_seconds: float | None = number(None, 0, 86400, none="it stays down")


@dataclass(frozen=True, slots=True)
class Restart(Fault):
    """The process is replaced: connections cut, cache lost, counters at 0, a new start time."""

    name: ClassVar[str] = "restart"
    down_seconds: float = number(1.0, 0, 86400)


@dataclass(frozen=True, slots=True)
class Hang(Fault):
    """The engine stops generating once a request has `after_tokens` tokens. With scope "http" the
    server accepts connections and answers nothing except /faults.
    """

    name: ClassVar[str] = "hang"
    scope: Literal["engine", "http"] = choice("engine", "engine", "http")
    after_tokens: int = whole(0, 0, MANY)


@dataclass(frozen=True, slots=True)
class Errors(Fault):
    """Chat requests get an HTTP error."""

    name: ClassVar[str] = "errors"
    status: int = whole(500, 400, 599)
    count: int | None = whole(None, 1, MANY, none=UNTIL_CLEARED)


@dataclass(frozen=True, slots=True)
class Unhealthy(Fault):
    """/health answers 503, as with a dead engine process."""

    name: ClassVar[str] = "unhealthy"


@dataclass(frozen=True, slots=True)
class CutStream(Fault):
    """The connection of a stream ends after this many chunks, without [DONE]."""

    name: ClassVar[str] = "cut_stream"
    after_chunks: int = whole(3, 0, MANY)
    count: int | None = whole(None, 1, MANY, none=UNTIL_CLEARED)


@dataclass(frozen=True, slots=True)
class StreamError(Fault):
    """A stream that began with status 200 sends an error object, then [DONE]."""

    name: ClassVar[str] = "stream_error"
    after_chunks: int = whole(3, 0, MANY)
    count: int | None = whole(None, 1, MANY, none=UNTIL_CLEARED)


@dataclass(frozen=True, slots=True)
class Abort(Fault):
    """The engine drops a request after this many tokens: finish reason "abort"."""

    name: ClassVar[str] = "abort"
    after_tokens: int = whole(3, 0, MANY)
    count: int | None = whole(None, 1, MANY, none=UNTIL_CLEARED)


@dataclass(frozen=True, slots=True)
class Wedge(Fault):
    """No prompt hits the cache, although its blocks are in it."""

    name: ClassVar[str] = "wedge"


@dataclass(frozen=True, slots=True)
class SmallCache(Fault):
    """The cache has only this many blocks; blocks that do not fit are evicted at once."""

    name: ClassVar[str] = "small_cache"
    blocks: int = whole(64, 2, MANY)


@dataclass(frozen=True, slots=True)
class IgnoreSalts(Fault):
    """Prompts with different salts share their blocks."""

    name: ClassVar[str] = "ignore_salts"


@dataclass(frozen=True, slots=True)
class NoUsageDetails(Fault):
    """Usage has no prompt_tokens_details, as without --enable-prompt-tokens-details."""

    name: ClassVar[str] = "no_usage_details"


@dataclass(frozen=True, slots=True)
class NoUsage(Fault):
    """Streams end without usage, as behind a proxy that drops stream_options."""

    name: ClassVar[str] = "no_usage"


@dataclass(frozen=True, slots=True)
class NoTokenIds(Fault):
    """Answers have no token ids, as before vLLM 0.10.2."""

    name: ClassVar[str] = "no_token_ids"


@dataclass(frozen=True, slots=True)
class NoTokenize(Fault):
    """/tokenize and /detokenize do not exist, as behind a proxy that forwards only /v1."""

    name: ClassVar[str] = "no_tokenize"


@dataclass(frozen=True, slots=True)
class NoLogprobs(Fault):
    """Requests for logprobs are refused."""

    name: ClassVar[str] = "no_logprobs"


@dataclass(frozen=True, slots=True)
class Slow(Fault):
    """Every step takes `factor` times as long."""

    name: ClassVar[str] = "slow"
    factor: float = number(3.0, 0.01, 10000)


@dataclass(frozen=True, slots=True)
class MovingSystemPrompt(Fault):
    """The chat template moves the system prompt into the last user message."""

    name: ClassVar[str] = "moving_system_prompt"


@dataclass(frozen=True, slots=True)
class NoPrefixCaching(Fault):
    """As with --no-enable-prefix-caching."""

    name: ClassVar[str] = "no_prefix_caching"


@dataclass(frozen=True, slots=True)
class NoLogStats(Fault):
    """As with --disable-log-stats: /metrics has no `vllm:` name."""

    name: ClassVar[str] = "no_log_stats"


_ALL: tuple[type[Fault], ...] = (
    Crash, Restart, Hang, Errors, Unhealthy, CutStream, StreamError, Abort, Wedge, SmallCache,
    IgnoreSalts, NoUsageDetails, NoUsage, NoTokenIds, NoTokenize, NoLogprobs, Slow,
    MovingSystemPrompt, NoPrefixCaching, NoLogStats, *behaviours.ALL,
)  # fmt: skip
KINDS: dict[str, type[Fault]] = {kind.name: kind for kind in _ALL}


def parse(body: object) -> Fault:
    """A fault from JSON such as {"fault": "slow", "factor": 3}. Reports all mistakes at once."""
    if not isinstance(body, Mapping):
        raise FaultInputError([Mistake("body", body, "an object with the key `fault`")])
    kind = KINDS.get(str(body.get("fault")))
    if kind is None:
        raise FaultInputError([Mistake("fault", body.get("fault"), "one of " + ", ".join(KINDS))])
    declared = {item.name: item for item in dataclasses.fields(kind)}
    given = {key: value for key, value in body.items() if key != "fault"}
    known = ", ".join(["fault", *declared])
    mistakes = [
        Mistake(str(key), value, f"only the keys {known}")
        for key, value in given.items()
        if key not in declared
    ]
    mistakes += [
        Mistake(name, given[name], item.metadata["allowed"])
        for name, item in declared.items()
        if name in given and not item.metadata["check"](given[name])
    ]
    if mistakes:
        raise FaultInputError(mistakes)
    return kind(**given)


def described(fault: Fault) -> dict[str, object]:
    """A fault as JSON."""
    return {"fault": fault.name, **dataclasses.asdict(fault)}


def catalogue() -> dict[str, object]:
    """All faults, each with its keys and their allowed values."""
    return {
        name: {
            "what": " ".join((kind.__doc__ or "").split()),
            "keys": {
                item.name: {"default": item.default, "allowed": item.metadata["allowed"]}
                for item in dataclasses.fields(kind)
            },
        }
        for name, kind in KINDS.items()
    }


_F = TypeVar("_F", bound=Fault)


class ActiveFaults:
    """The active faults, one of each kind."""

    def __init__(self) -> None:
        self._on: dict[type[Fault], Fault] = {}
        self._left: dict[type[Fault], int] = {}

    def set(self, fault: Fault) -> None:
        self._on[type(fault)] = fault
        self._left.pop(type(fault), None)
        count = getattr(fault, "count", None)
        if count is not None:
            self._left[type(fault)] = count

    def get(self, kind: type[_F]) -> _F | None:
        fault = self._on.get(kind)
        return fault if isinstance(fault, kind) else None

    def take(self, kind: type[_F]) -> _F | None:
        """Like `get`, and uses up one of a fault with a count."""
        fault = self.get(kind)
        if fault is not None and kind in self._left:
            self._left[kind] -= 1
            if self._left[kind] == 0:
                self.clear(kind)
        return fault

    def clear(self, kind: type[Fault] | None = None) -> None:
        """Clear one kind of fault, or all."""
        for each in [kind] if kind else list(self._on):
            self._on.pop(each, None)
            self._left.pop(each, None)

    def all(self) -> list[Fault]:
        return list(self._on.values())
