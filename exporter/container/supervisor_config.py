"""What the supervisor reads: a target, its container's settings, and what follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.config.schema.vllm_flags import version_of
from exporter.container.decide.launch import for_image
from exporter.container.decide.policy import Policy
from exporter.container.launching import container_of, launch_of, secrets_of

if TYPE_CHECKING:
    from exporter.config import Target
    from exporter.container.decide.records import Launch
    from exporter.container.door import DockerDoor

# The last version whose image has an entrypoint that wants --model; `vllm serve` of that version
# accepts the flag, too.
_LAST_BY_FLAG = (0, 11)


class SupervisorConfig:
    """One target with a container.

    `launch` is None in mode attached, where another tool creates the container. `model` is the
    model that vLLM is told to load, None in mode attached and where `command` replaces vLLM's own
    command.
    """

    def __init__(self, target: Target, instance: str | None = None) -> None:
        """`instance` names this exporter. Raises `ConfigError` for a target without a container."""
        self.target = target
        self.instance = instance
        self.container = container_of(target)
        managed = target.mode == "managed"
        self.policy = Policy(managed, target.may_restart, self.container)
        self.launch: Launch | None = launch_of(target, instance) if managed else None
        self.secrets = secrets_of(target) if managed else {}
        self.model = self.container.model if self.container.command is None else None

    def held(self) -> bool:
        """Whether the hold file exists: then the exporter does nothing to the container."""
        file = self.container.hold_file
        return file is not None and file.exists()

    async def fitted(self, launch: Launch, door: DockerDoor) -> Launch:
        """The launch with the command that its image accepts. Raises `DockerError`."""
        if self.model is None:
            return launch
        return self.fitted_by(launch, await door.entrypoint(launch.image))

    def fitted_by(self, launch: Launch, entrypoint: tuple[str, ...] | None) -> Launch:
        """The same by the image's entrypoint, None where it is not known."""
        version = version_of(launch.image)
        old = version is not None and version <= _LAST_BY_FLAG
        return launch if self.model is None else for_image(launch, entrypoint, old=old)
