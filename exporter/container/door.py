"""What the supervisor may ask of Docker. docker_engine.py answers it; tests answer it from memory.

Every method raises DockerError and nothing else. Every call that is not a stream has a time limit
of its own inside the door (DockerProblem.TIMEOUT), so a caller never waits for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from exporter.container.decide.observation import HealthAnswer
    from exporter.container.decide.records import (
        ContainerEvent,
        ContainerSnapshot,
        Launch,
        LogLine,
        PullProgress,
    )


class EngineDoor(Protocol):
    """What the supervisor asks of the engine itself. Nothing here raises."""

    async def health(self, seconds: float) -> HealthAnswer:
        """GET /health, which may take so long."""

    async def asleep_or_paused(self) -> bool:
        """Whether the engine says that it sleeps or is paused; False where it does not say."""

    async def loaded(self) -> str | None:
        """The model that the engine says that it loaded, as it was named; None: it does not say."""


class DockerDoor(Protocol):
    """One Docker Engine."""

    async def inspect(self, reference: str) -> ContainerSnapshot | None:
        """The container of that name or id; None where there is none."""

    async def find(self, label: str) -> tuple[ContainerSnapshot, ...]:
        """All containers, stopped ones too, that carry `label` ("key" or "key=value").

        Running ones come first, then the most recently created.
        """

    async def create(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        """Make the container, do not start it, and return its id.

        `secrets` has a value for each name in `launch.secret_environment` and `secret_files`.
        IMAGE_NOT_FOUND: the image is not on this machine (nothing is pulled here).
        CONFLICT: a container of that name exists.
        """

    async def start(self, container_id: str) -> None:
        """Start it. A container that runs already is no error.

        After a refusal (GPU_DRIVER_MISSING, PORT_TAKEN…) it stays behind, not running.
        """

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL after `grace_seconds`; return when it has ended.

        A container that does not run is no error; one that is paused ends too.
        """

    async def unpause(self, container_id: str) -> None:
        """Let a paused container go on. One that is not paused is no error."""

    async def remove(self, container_id: str) -> None:
        """Remove a stopped container, not its named volumes. One already gone is no error."""

    async def has_image(self, image: str) -> bool:
        """Whether the image is on this machine."""

    async def entrypoint(self, image: str) -> tuple[str, ...] | None:
        """The program that the image starts, empty where it names none; None: it is not here."""

    async def pull(self, image: str, on_progress: Callable[[PullProgress], None]) -> None:
        """Fetch the image. `on_progress` is called on the event loop.

        The time limit is on silence, not on the whole. Cancelling frees the thread.
        """

    def events(self) -> AsyncIterator[ContainerEvent]:
        """Container events from now on, until cancelled or closed.

        The stream never ends by itself: one that is cut raises DockerError.
        """

    def logs(self, container_id: str, since_time: float | None) -> AsyncIterator[LogLine]:
        """Lines of both output streams, in order, those after `since_time` (Unix) or all.

        It ends when the container stops or goes; one that is cut raises DockerError.
        """

    async def tail(self, container_id: str, lines: int) -> tuple[LogLine, ...]:
        """The last lines of both output streams, oldest first; works on a stopped container."""
