"""What the supervisor may ask of Docker and of the engine. Tests answer it from memory.

Every method of DockerDoor raises DockerError and nothing else. Every call that is not a stream has
a timeout inside the door (DockerProblem.TIMEOUT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from exporter.container.decide.records import (
        ContainerEvent,
        ContainerSnapshot,
        Launch,
        LogLine,
        PullProgress,
    )
    from exporter.model.failure import FailureReason


class EngineDoor(Protocol):
    """What the supervisor asks of the engine; `EngineClient` is one."""

    async def healthy(self, seconds: float) -> bool:
        """True if /health answers 200 within this timeout, else raises `EngineUnavailableError`."""

    async def rest(self) -> FailureReason | None:
        """ASLEEP, PAUSED or SCALING if the engine says so; None where it does not say."""

    async def loaded_model(self) -> str | None:
        """The name of the model that the engine loaded; None where it does not say."""


class DockerDoor(Protocol):
    """One Docker Engine."""

    async def inspect(self, reference: str) -> ContainerSnapshot | None:
        """The container of that name or id; None where there is none."""

    async def find(self, label: str) -> tuple[ContainerSnapshot, ...]:
        """All containers, stopped ones too, that carry `label` ("key" or "key=value").

        Running ones come first, then the most recently created.
        """

    async def create(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        """Create the container without starting it. Returns its id.

        `secrets` has a value for each name in `launch.secret_environment` and `secret_files`.
        IMAGE_NOT_FOUND: the image is not on Docker's host (nothing is pulled here).
        CONFLICT: a container of that name exists.
        """

    async def start(self, container_id: str) -> None:
        """Start it. A running container is no error.

        After a refusal (GPU_DRIVER_MISSING, PORT_TAKEN…) the container exists and does not run.
        """

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL after `grace_seconds`. Returns when it has stopped.

        A container that does not run is no error. A paused one stops, too.
        """

    async def unpause(self, container_id: str) -> None:
        """Continue a paused container. One that is not paused is no error."""

    async def remove(self, container_id: str) -> None:
        """Remove a stopped container, not its named volumes. A missing one is no error."""

    async def has_image(self, image: str) -> bool:
        """Whether the image is on Docker's host."""

    async def entrypoint(self, image: str) -> tuple[str, ...] | None:
        """The image's entrypoint, empty where it has none; None: the image is not here."""

    async def pull(self, image: str, on_progress: Callable[[PullProgress], None]) -> None:
        """Pull the image. `on_progress` is called on the event loop.

        The timeout is on silence, not on the whole pull. Cancelling frees the thread.
        """

    def events(self) -> AsyncIterator[ContainerEvent]:
        """Container events from now on, until cancelled or closed.

        The stream does not end by itself: a broken one raises DockerError.
        """

    def logs(self, container_id: str, since_time: float | None) -> AsyncIterator[LogLine]:
        """Lines of both output streams, in order, those after `since_time` (Unix) or all.

        It ends when the container stops or is removed. A broken one raises DockerError.
        """

    async def tail(self, container_id: str, lines: int) -> tuple[LogLine, ...]:
        """The last lines of both output streams, oldest first; works on a stopped container."""
