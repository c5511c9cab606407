"""Headers and fields that a user adds to requests: what is read, what is refused, what is shown."""

from __future__ import annotations

import pytest

from exporter.config import describe, describe_json
from exporter.errors import ConfigError

TARGET = '[[targets]]\nurl = "http://a:1"\n'


def target_of(load_text, text, **sources):
    return load_text(TARGET + text, **sources).settings.targets[0]


def values(target):
    return {name: value.get_secret_value() for name, value in target.headers.items()}


def test_headers_and_fields_are_read_from_a_file(load_text):
    target = target_of(
        load_text,
        'headers = { X-Session-ID = "{session}", traceparent = "00-{{}}" }\n'
        "extra_body = { priority = 1, chat_template_kwargs = { enable_thinking = false } }\n",
    )
    assert values(target) == {"X-Session-ID": "{session}", "traceparent": "00-{{}}"}
    assert target.extra_body == {
        "priority": 1,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_the_environment_adds_to_them_key_by_key(load_text):
    variable = "VLLM_EXPORTER_TARGETS__0__"
    target = target_of(
        load_text,
        'headers = { X-A = "a" }\nextra_body = { priority = 1 }\n',
        env={
            f"{variable}HEADERS": '{"X-B": "b"}',
            f"{variable}HEADERS__X-C": "c",
            f"{variable}EXTRA_BODY__priority": "2",
            f"{variable}EXTRA_BODY__user": "{session}",
        },
    )
    assert values(target) == {"X-A": "a", "X-B": "b", "X-C": "c"}
    assert target.extra_body == {"priority": 2, "user": "{session}"}


def test_a_value_is_read_from_a_file_beside_the_configuration(load_text, tmp_path):
    (tmp_path / "token").write_text("Bearer abc\n", "utf-8")
    target = target_of(load_text, 'header_files = { Authorization = "token" }\n')
    assert values(target) == {"Authorization": "Bearer abc"}


def test_a_stronger_source_replaces_a_file(load_text, tmp_path):
    (tmp_path / "token").write_text("weak", "utf-8")
    target = target_of(
        load_text,
        'header_files = { X-A = "token", X-B = "token" }\n',
        env={"VLLM_EXPORTER_TARGETS__0__HEADERS": '{"X-A": "strong"}'},
    )
    assert values(target) == {"X-A": "strong", "X-B": "weak"}
    assert set(target.header_files) == {"X-B"}


def test_discovered_targets_have_them_too(load_text):
    (source,) = load_text(
        '[[discovery.dns]]\nname = "d"\nhost = "vllm.svc"\n'
        'headers = { X-A = "a" }\nextra_body = { priority = 1 }\n'
    ).settings.discovery.dns
    assert source.template()["headers"]["X-A"].get_secret_value() == "a"
    assert source.template()["extra_body"] == {"priority": 1}


FREE = "must not be set"
REFUSED = [
    ('headers = { Host = "h" }', "headers.Host", FREE),
    ('headers = { content-length = "1" }', "headers.content-length", FREE),
    ('headers = { Transfer-Encoding = "x" }', "headers.Transfer-Encoding", FREE),
    ('headers = { Content-Type = "x" }', "headers.Content-Type", FREE),
    ('headers = { authorization = "x" }\napi_key = "k"', "headers.authorization", "api_key"),
    ('headers = { "X A" = "x" }', "headers.X A", "must be the name of a header"),
    ('headers = { X-A = "x", x-a = "y" }', "headers.x-a", "is the same header as X-A"),
    ('headers = { X-A = "a\\nb" }', "headers.X-A", "must be printable ASCII"),
    ('headers = { X-A = "" }', "headers.X-A", "must be printable ASCII"),
    ('headers = { X-A = "{user}" }', "headers.X-A", "{session} and {turn} only"),
    ('headers = { X-A = "{session!r}" }', "headers.X-A", "{session} and {turn} only"),
    ('headers = { X-A = "{session.x}" }', "headers.X-A", "{session} and {turn} only"),
    ('headers = { X-A = "{turn:3}" }', "headers.X-A", "{session} and {turn} only"),
    ('headers = { X-A = "{}" }', "headers.X-A", "{session} and {turn} only"),
    ('headers = { X-A = "{" }', "headers.X-A", "{session} and {turn} only"),
    ('headers = { X-A = "a" }\nheader_files = { X-A = "f" }', "headers.X-A", "keep one of them"),
    ('header_files = { X-A = "no-such-file" }', "header_files.X-A", "cannot be read"),
    *(
        (f"extra_body = {{ {name} = 1 }}", f"extra_body.{name}", FREE)
        for name in (
            *("model", "messages", "max_tokens", "max_completion_tokens", "stream", "n"),
            *("stream_options", "temperature", "cache_salt", "return_token_ids", "tools"),
            *("tool_choice", "logprobs", "prompt_logprobs", "request_id"),
        )
    ),
    ('extra_body = { a = { b = ["{x}"] } }', "extra_body.a.b[0]", "{session} and {turn} only"),
    ("extra_body = { a = 2020-01-01 }", "extra_body.a", "that JSON has"),
    ("extra_body = { a = inf }", "extra_body.a", "that JSON has"),
    ("extra_body = 3", "extra_body", "must be a table"),
    (
        'headers = { x-data-parallel-rank = "1" }\ndata_parallel_ranks = "pinned"',
        "data_parallel_ranks",
        "keep one of them",
    ),
    ('data_parallel_ranks = "both"', "data_parallel_ranks", '"unpinned" or "pinned"'),
]


@pytest.mark.parametrize(("text", "key", "words"), REFUSED)
def test_each_mistake_names_its_key_and_why(load_text, text, key, words):
    with pytest.raises(ConfigError) as caught:
        load_text(TARGET + text)
    said = str(caught.value)
    assert f"targets[0].{key}" in said
    assert words in said


def test_no_mistake_shows_the_value_of_a_header(load_text, tmp_path):
    (tmp_path / "token").write_text("canary{file}", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_text(
            TARGET + 'headers = { Host = "canary", X-A = "canary{x}", "b c" = "canary" }\n'
            'header_files = { X-B = "token" }\n'
        )
    assert "canary" not in str(caught.value)
    assert str(caught.value).count("targets[0].headers") == 4


def test_config_shows_fields_and_hides_the_values_of_headers(load_text):
    loaded = load_text(
        f'{TARGET}headers = {{ X-A = "canary" }}\nextra_body = {{ user = "{{session}}" }}\n'
    )
    for said in (describe(loaded), describe_json(loaded)):
        assert "canary" not in said
        assert "X-A" in said
        assert "{session}" in said
