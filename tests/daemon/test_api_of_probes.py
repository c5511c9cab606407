"""The daemon probes over the API that `probe.api` names."""

from __future__ import annotations

import pytest

from exporter.config import Target
from exporter.daemon.probing import engine_client
from exporter.engine.wire.surfaces.named import SURFACES


@pytest.mark.parametrize("api", SURFACES)
async def test_the_client_of_a_target_speaks_the_api_of_the_setting(api):
    target = Target(name="t", url="http://127.0.0.1:9")
    async with engine_client(target, 1.0, api) as client:
        assert client.surface is SURFACES[api]
    async with engine_client(target, 1.0) as client:
        assert client.surface is SURFACES["chat_completions"]
