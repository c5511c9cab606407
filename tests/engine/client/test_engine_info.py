"""What the client reads about an engine: its models, its version and its context."""

from dataclasses import replace

import pytest
from aiohttp import web
from chat_server import DONE, PATIENT, REQUEST, models, serving, streaming, version

from exporter.engine.client.engine_client import EngineClient
from exporter.errors import EngineUnavailableError
from exporter.model.engine import EngineInfo
from exporter.model.failure import FailureReason


async def test_the_engine_is_known_by_its_first_model_and_its_version():
    async with serving(streaming(DONE), v1__models=models, version=version) as url:
        async with EngineClient(url) as client:
            assert await client.info() == EngineInfo("tiny", 8192, "0.32.0", simulated=False)
        async with EngineClient(url, model="lora") as client:
            assert await client.info() == EngineInfo("lora", None, "0.32.0", simulated=False)


async def test_the_error_for_a_wanted_model_names_the_models_that_are_served():
    async with serving(streaming(DONE), v1__models=models) as url:
        async with EngineClient(url, model="big") as client:
            with pytest.raises(
                EngineUnavailableError, match="'big', it serves tiny, lora"
            ) as error:
                await client.info()
    assert error.value.reason == FailureReason.MODEL_NOT_FOUND


async def test_an_engine_without_version_or_tokenize_works():
    async with serving(streaming(DONE), v1__models=models) as url, EngineClient(url) as client:
        assert (await client.info()).version is None
        assert await client.count_tokens("tiny", [], ()) is None


async def test_a_page_that_is_not_json_is_a_protocol_failure():
    async def page(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>hello</html>")

    async with serving(streaming(DONE), v1__models=page) as url, EngineClient(url) as client:
        with pytest.raises(EngineUnavailableError) as error:
            await client.info()
    assert error.value.reason == FailureReason.PROTOCOL


async def adapters(_request: web.Request) -> web.StreamResponse:
    cards = [
        {"id": "tiny", "max_model_len": 8192},
        {"id": "lora", "parent": "tiny"},
        {"id": "bare"},
    ]
    return web.json_response({"object": "list", "data": cards})


async def test_an_adapters_context_is_its_parents_and_another_is_learned_from_a_refusal():
    async def chat(request: web.Request) -> web.StreamResponse:
        message = "This model's maximum context length is 3000 tokens. However, you requested 4000"
        return web.json_response({"error": {"message": message}}, status=400)

    async with serving(chat, v1__models=adapters) as url:
        async with EngineClient(url, model="lora") as client:
            assert (await client.info()).max_model_len == 8192
        async with EngineClient(url, model="bare") as client:
            assert (await client.info()).max_model_len is None
            failure = (await client.chat(replace(REQUEST, model="bare"), PATIENT)).failure
            assert failure.reason is FailureReason.PROMPT_TOO_LONG
            assert (await client.info()).max_model_len == 3000
