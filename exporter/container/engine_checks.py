"""What the supervisor asks of the engine, through the engine's client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.container.decide.observation import Health, HealthAnswer, failed_health
from exporter.errors import EngineUnavailableError
from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from exporter.engine.client.engine_client import EngineClient


class EngineChecks:
    """An `exporter.container.door.EngineDoor`."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def health(self, seconds: float) -> HealthAnswer:
        try:
            await self._client.healthy(seconds)
        except EngineUnavailableError as error:
            return failed_health(Failure(FailureReason(error.reason), error.detail))
        return HealthAnswer(Health.OK)

    async def asleep_or_paused(self) -> bool:
        return await self._client.asleep_or_paused()

    async def loaded_model(self) -> str | None:
        return await self._client.loaded_model()
