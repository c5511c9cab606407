"""An API of the simulator: how it reads a request as a chat, and writes the answer.

As in vLLM, each of them is played as a chat completion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from exporter.simulator import wire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from exporter.simulator.requests import ChatRequest
    from exporter.simulator.scheduler import Job
    from exporter.simulator.text.answers import Answer

Json = dict[str, Any]


class Played(Protocol):
    """A chat that is being played, as far as an API writes it.

    `asked` is the body as it was sent. `job` has the cache numbers once the prompt is computed.
    """

    @property
    def asked(self) -> Json: ...
    @property
    def request(self) -> ChatRequest: ...
    @property
    def prompt_ids(self) -> list[int]: ...
    @property
    def answer(self) -> Answer: ...
    @property
    def job(self) -> Job: ...
    @property
    def created(self) -> int: ...
    @property
    def shows_ids(self) -> bool: ...
    @property
    def model(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Api:
    """`chat_body` makes the chat request of a body; raises `WireError`.

    `whole` and `events` make the answer of a chat completion, or of its chunks; `last` ends a
    stream. `broken` is an error within a stream and its end; None cuts the connection. `refused`
    is the body of a refusal, and `limit` the name that it has for the longest answer. Without
    `pins_ranks` the header that names a rank is ignored.
    """

    chat_body: Callable[[Json], Json]
    whole: Callable[[Played, Json], Json]
    events: Callable[[Played, AsyncIterator[Json]], AsyncGenerator[str, None]]
    last: str
    broken: Callable[[Json], str | None]
    refused: Callable[[Json], Json]
    limit: str | None = None
    pins_ranks: bool = True


def event(data: Json, name: str | None = None) -> str:
    """One server-sent event."""
    named = "" if name is None else f"event: {name}\n"
    return f"{named}data: {wire.dump(data)}\n\n"
