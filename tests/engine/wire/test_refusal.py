"""Which field of a request a server refuses, and which context length it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporter.engine.wire.capabilities import Capabilities
from exporter.engine.wire.model_cards import context_length
from exporter.engine.wire.refusal import read_refusal
from exporter.engine.wire.request import OPTIONAL_FIELDS, ChatRequest
from exporter.engine.wire.surfaces.chat_completions import body

VERSIONS = Path(__file__).parents[1] / "data" / "versions"
REQUEST = ChatRequest("m", [{"role": "user", "content": "hello"}], 4, cache_salt="s")
V0 = (
    "[{'type': 'value_error', 'loc': ('body',), 'msg': \"Value error, Parameter 'cache_salt' is "
    "not supported with this instance of vLLM, which uses engine V0.\", 'input': {'model': 'm', "
    "'stream_options': {'include_usage': True}, 'return_token_ids': True, 'cache_salt': 's'}}]"
)
FORBIDDEN = {
    "type": "extra_forbidden",
    "loc": ["body", "return_token_ids"],
    "msg": "Extra inputs are not permitted",
    "input": {"stream_options": {}},
}


def error(message, **more):
    return json.dumps({"error": {"message": message, **more}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "named"),
    [
        (400, json.dumps({"object": "error", "message": V0}).encode(), "cache_salt"),
        (422, json.dumps({"detail": [FORBIDDEN]}).encode(), "return_token_ids"),
        (400, error("bad request", param="stream_options"), "stream_options"),
        (400, error("stream_options: Extra inputs are not permitted"), "stream_options"),
        (
            400,
            error("Unrecognized request arguments supplied: return_token_ids, cache_salt"),
            "return_token_ids",
        ),
        (400, error('in {"stream_options": {}, "cache_salt": "s"}: no cache_salt'), "cache_salt"),
        (400, b"unknown field `cache_salt` at line 1", "cache_salt"),
        # What names none of them, or only quotes the request.
        (400, error('cannot take {"stream_options": {}, "cache_salt": "s"}'), None),
        (400, error("my_cache_salt_2 is unknown"), None),
        (400, error("temperature must be 1"), None),
        (400, error("maximum context length is 8 tokens, not cache_salt"), None),
        (500, error("cache_salt"), None),
        (401, error("cache_salt"), None),
    ],
)
def test_the_field_that_a_server_refuses_is_the_first_that_it_names(status, body, named):
    assert read_refusal(status, body).names(OPTIONAL_FIELDS) == named


def test_a_field_that_was_not_sent_is_not_to_blame():
    refusal = read_refusal(400, error("cache_salt and stream_options"))
    assert refusal.names({"stream_options"}) == "stream_options"
    assert refusal.names(()) is None


def test_a_refused_field_is_left_out_of_later_requests():
    capabilities = Capabilities()
    refusal = read_refusal(400, error("no cache_salt here"))
    assert capabilities.learn(refusal, body(REQUEST))
    assert capabilities.refuses_salts
    assert "cache_salt" not in capabilities.accepted(body(REQUEST))
    assert not capabilities.learn(refusal, body(REQUEST)), (
        "it refuses what was not sent: sending it again is vain"
    )


def recorded():
    return sorted(VERSIONS.glob("*/too_long.txt"))


@pytest.mark.parametrize("file", recorded(), ids=[file.parent.name for file in recorded()])
def test_every_release_names_its_context_in_one_of_two_sentences(file):
    refusal = read_refusal(400, file.read_bytes())
    assert refusal.context_length == 8192
    capabilities = Capabilities()
    assert not capabilities.learn(refusal, body(REQUEST))
    assert capabilities.contexts == {"m": 8192}


def test_a_length_counts_only_where_a_prompt_was_too_long_for_it():
    words = "maximum context length is 4,096 tokens"
    assert read_refusal(400, error(words)).context_length == 4096
    assert read_refusal(500, error("context length is only 512 tokens")).context_length is None
    assert read_refusal(400, error("too long", param="input_tokens")).context_length is None
    assert read_refusal(400, error("maximum context length is 0 tokens")).context_length is None


BASE = {"id": "base", "max_model_len": 8192, "parent": None}


@pytest.mark.parametrize(
    ("cards", "length"),
    [
        ([{"id": "m", "max_model_len": 4096}], 4096),
        ([BASE, {"id": "m", "parent": "base", "max_model_len": None}], 8192),
        ([{"id": "m", "parent": "n"}, {"id": "n", "parent": "base"}, BASE], 8192),
        ([{"id": "m", "parent": "base", "max_model_len": 2048}, BASE], 2048),
        ([{"id": "m", "parent": "gone"}, BASE], None),
        ([{"id": "m", "parent": "n"}, {"id": "n", "parent": "m"}], None),
        ([{"id": "m", "parent": ["base"]}, BASE], None),
        ([{"id": "m", "max_model_len": "8192"}], None),
        ([{"id": "m", "max_model_len": 0, "parent": "base"}, BASE], 8192),
        ([BASE], None),
    ],
)
def test_an_adapter_has_the_context_of_its_parent(cards, length):
    assert context_length("m", cards) == length
