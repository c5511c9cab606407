"""The small endpoints: models, health, version, tokenize."""

from __future__ import annotations

import json

import pytest
from conversation import TOOLS, opening


async def test_the_models_list_has_the_name_and_the_context_length(engine):
    status, text, headers = await engine.get("/v1/models")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    listed = json.loads(text)
    (card,) = listed["data"]
    assert listed["object"] == "list"
    assert card["id"] == engine.model
    assert card["object"] == "model"
    assert card["max_model_len"] == (await engine.tokenize(opening(1)))["max_model_len"] == 8192
    assert card["owned_by"] in {"vllm", "vllm-simulator"}


@pytest.mark.parametrize("path", ["/health", "/ping"])
async def test_health_is_an_empty_200(engine, path):
    status, text, _ = await engine.get(path)
    assert (status, text) == (200, "")


async def test_only_a_simulator_says_that_it_is_one(engine):
    _, text, _ = await engine.get("/version")
    version = json.loads(text)
    assert version["version"].count(".") >= 2
    _, models, _ = await engine.get("/v1/models")
    simulated = json.loads(models)["data"][0]["owned_by"] == "vllm-simulator"
    assert version.get("simulated", False) == simulated


@pytest.mark.parametrize("tools", [None, TOOLS])
async def test_tokenize_gives_the_ids_of_the_prompt_that_is_computed(engine, tools):
    extra = {} if tools is None else {"tools": tools}
    counted = await engine.tokenize(opening(30), **extra)
    choice = {} if tools is None else {"tool_choice": "none"}
    answer = await engine.stream(opening(30), max_tokens=1, **extra, **choice)
    assert set(counted) == {"count", "max_model_len", "tokens", "token_strs"}
    assert counted["count"] == len(counted["tokens"]) == answer.usage["prompt_tokens"]
    assert counted["tokens"] == answer.chunks[0]["prompt_token_ids"]
    assert counted["token_strs"] is None


async def test_tokenize_without_the_generation_prompt_is_a_prefix(engine):
    whole = await engine.tokenize(opening(5))
    part = await engine.tokenize(opening(5), add_generation_prompt=False)
    assert part["count"] < whole["count"]
    assert whole["tokens"][: part["count"]] == part["tokens"]


async def test_tokenize_takes_plain_text_and_detokenize_gives_it_back(engine):
    text = "def read(self, size=-1):\n    return self.raw[:size]  # é"
    body = {"model": engine.model, "prompt": text, "return_token_strs": True}
    status, answer = await engine.post("/tokenize", body)
    assert status == 200
    assert len(answer["token_strs"]) == answer["count"]
    back = await engine.post("/detokenize", {"model": engine.model, "tokens": answer["tokens"]})
    assert back == (200, {"prompt": text})


async def test_tokenize_wants_a_prompt_or_messages(engine):
    status, answer = await engine.post("/tokenize", {})
    assert status == 400
    assert answer["error"]["message"].startswith("2 validation errors:")


async def test_content_may_come_in_parts(engine):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    in_parts = await engine.tokenize([{"role": "user", "content": parts}])
    joined = await engine.tokenize([{"role": "user", "content": "one\ntwo"}])
    assert in_parts["tokens"] == joined["tokens"]
