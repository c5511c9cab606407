"""The daemon's API matches its OpenAPI description, with real sessions."""

import json

from api_description_check import faults

from exporter.simulator.server import Simulator, SimulatorSettings

PATHS = ("/api/v1/sessions", "/api/v1/targets")


async def test_the_answers_match_the_api_description(daemon, tmp_path):
    """With a healthy engine, one with the fewest fields, and one that is down."""
    sound = SimulatorSettings(port=0, time_scale=0.0)
    silent = SimulatorSettings(port=0, time_scale=0.0, enable_prompt_tokens_details=False)
    async with Simulator(sound) as one, Simulator(silent) as other:
        urls = {"sound": one.url, "silent": other.url, "down": "http://127.0.0.1:1"}
        targets = json.dumps([{"name": name, "url": url} for name, url in urls.items()])
        often = ("--probe.interval_seconds", "1", "--probe.control_ratio", "1")
        async with daemon(tmp_path / "log", "--targets", targets, *often) as at:

            async def played():
                return {session["target"] for session in await at.sessions()} == set(urls)

            await at.until("a session of each target ended", played)
            description = json.loads((await at.get("/api/v1/openapi.json"))[1])
            for path in PATHS:
                status, body = await at.get(path)
                assert status == 200
                assert faults(description, path, json.loads(body)) == []
            status, body = await at.get("/api/v1/targets?x=1")
            assert status == 400
            assert faults(description, "/api/v1/targets", json.loads(body), status) == []
