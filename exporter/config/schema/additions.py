"""What a user adds: `headers`, `header_files`, `extra_body` to requests, `labels` to series."""

import math
from collections.abc import Iterator, Mapping
from string import Formatter
from typing import Annotated, Any

from pydantic import AfterValidator, SecretStr, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import InitErrorDetails

from exporter.config.schema.values import ConfigPath, check_with, matching, mistake, mistake_at

PLACEHOLDERS = ("session", "turn")
_PLACEHOLDERS = (
    "may have the placeholders {session} and {turn} only; write {{ and }} for braces of the text"
)
_THE_CLIENT_SETS_IT = "must not be set: the exporter's HTTP client sets it for each request"
_OF_THE_CLIENT = frozenset(
    {
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length"),
        *("content-type", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)
_WHOLE = "must not be set: the probe computes what each prompt could hit, so it must know all of it"
_ANSWER = "must not be set: the probe needs exactly one answer, streamed, with its usage"
_IDS = "must not be set: the probe asks for token ids and logprobs itself where it needs them"
_TOOLS = "must not be set: the scenario has the tools"
_LENGTH = "must not be set: use probe.max_tokens"
_FORBIDDEN_FIELDS = {
    "model": "must not be set: use the target's model",
    **dict.fromkeys(
        (
            *("messages", "prompt", "add_generation_prompt", "continue_final_message", "echo"),
            *("truncate_prompt_tokens", "system", "instructions", "input"),
            *("previous_response_id", "previous_input_messages", "truncation"),
        ),
        _WHOLE,
    ),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), _LENGTH),
    **dict.fromkeys(
        ("stream", "stream_options", "n", "best_of", "use_beam_search", "background"), _ANSWER
    ),
    "temperature": "must not be set: it is 0, so that an answer can be compared with its repeat",
    "cache_salt": "must not be set: each session has a salt of its own, so that it starts cold",
    **dict.fromkeys(
        (
            *("return_token_ids", "return_tokens_as_token_ids", "logprobs", "top_logprobs"),
            *("prompt_logprobs", "enable_response_messages"),
        ),
        _IDS,
    ),
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), _TOOLS),
    "request_id": "must not be set: use headers, with X-Request-Id",
}


def _well_formed(text: str) -> bool:
    """Whether all placeholders in a template can be filled in."""
    try:
        return all(
            name is None or (name in PLACEHOLDERS and not spec and conversion is None)
            for _, name, spec, conversion in Formatter().parse(text)
        )
    except ValueError:  # a single brace
        return False


def _check_plain_value(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if not value or value != value.strip() or not value.isascii() or not value.isprintable():
        raise mistake("must be printable ASCII, not empty, and not begin or end with a space")
    return secret


def _check_header_value(secret: SecretStr) -> SecretStr:
    _check_plain_value(secret)
    if not _well_formed(secret.get_secret_value()):
        raise mistake(_PLACEHOLDERS)
    return secret


def _check_names(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    names = [each for each in value if isinstance(each, str)] if isinstance(value, Mapping) else []
    first: dict[str, str] = {}
    wrong = []
    for name in names:
        if name.lower() in _OF_THE_CLIENT:
            wrong.append(mistake_at(_THE_CLIENT_SETS_IT, name))
        elif first.setdefault(name.lower(), name) != name:
            wrong.append(mistake_at(f"is the same header as {first[name.lower()]}", name))
    return check_with(handler, value, wrong)


def taken(headers: Any, name: str, why: str) -> list[InitErrorDetails]:
    """A mistake for each header of that name, which is in lower case."""
    names = headers if isinstance(headers, Mapping) else ()
    return [
        mistake_at(why, each) for each in names if isinstance(each, str) and each.lower() == name
    ]


def _check_fields(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    wrong = list(_wrong_fields(value)) if isinstance(value, Mapping) else []
    return check_with(handler, value, wrong)


def _wrong_fields(fields: Mapping[Any, Any]) -> Iterator[InitErrorDetails]:
    for name, value in fields.items():
        if (why := _FORBIDDEN_FIELDS.get(name)) is not None:
            yield mistake_at(why, name)
        else:
            yield from _wrong_in(value, (name,))


def _wrong_in(value: Any, place: tuple[str | int, ...]) -> Iterator[InitErrorDetails]:
    """The mistakes in a value of the body."""
    match value:
        case str() if not _well_formed(value):
            yield mistake_at(_PLACEHOLDERS, *place)
        case None:
            yield mistake_at("must not be null: leave it out", *place)
        case str() | bool() | int():
            pass
        case float() if math.isfinite(value):
            pass
        case list() | tuple():
            for index, each in enumerate(value):
                yield from _wrong_in(each, (*place, index))
        case dict():
            for name, each in value.items():
                yield from _wrong_in(each, (*place, name))
        case _:
            yield mistake_at("must be a value that JSON has", *place)


HeaderName = Annotated[
    str,
    matching(r"[!#$%&'*+.^_`|~0-9a-zA-Z-]{1,100}", 'must be the name of a header, such as "X-Id"'),
]
Headers = Annotated[
    Mapping[HeaderName, Annotated[SecretStr, AfterValidator(_check_header_value)]],
    WrapValidator(_check_names),
]
PlainHeaders = Annotated[
    Mapping[HeaderName, Annotated[SecretStr, AfterValidator(_check_plain_value)]],
    WrapValidator(_check_names),
]
"""Without placeholders."""
HeaderFiles = Mapping[HeaderName, ConfigPath]
ExtraBody = Annotated[Mapping[str, Any], WrapValidator(_check_fields)]

MOST_LABELS = 10
_LONGEST_VALUE = 128  # characters

OF_FAMILIES = frozenset(
    {
        *("answers_kept", "block_size", "cache", "cause", "currency", "data_parallel_rank"),
        *("dropped_blocks", "event", "gap_seconds", "image", "image_id", "le", "lookahead_tokens"),
        *("loop", "match_unit", "max_model_len", "mode", "model", "name", "notice", "num_blocks"),
        *("outcome", "prefix_caching", "python", "quantile", "ranks", "reason", "replica"),
        *("revision", "scenario", "signal", "simulated", "source", "state", "target", "turn"),
        *("unit_tokens", "version", "window"),
    }
)
"""Names that the exporter's own series have."""
_OF_PROMETHEUS = frozenset(
    {
        *("job", "instance", "namespace", "service", "pod", "container", "endpoint", "node"),
        *("alertname", "alertstate", "severity", "about", "runbook", "what"),
    }
)
"""Names that a scrape, an alert or a dashboard of this project sets."""


def _check_label_names(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    wrong = []
    for name in value if isinstance(value, Mapping) else ():
        if name in OF_FAMILIES:
            wrong.append(mistake_at("is reserved: series of the exporter have a label of it", name))
        elif name in _OF_PROMETHEUS:
            wrong.append(mistake_at("is reserved: Prometheus or an alert sets it", name))
        elif isinstance(name, str) and name.startswith("__"):
            wrong.append(mistake_at("is reserved: Prometheus uses names that begin with __", name))
    checked = check_with(handler, value, wrong)
    if len(checked) > MOST_LABELS:
        raise mistake(f"may have {MOST_LABELS} labels at most: each is on every series")
    return checked


def _check_label_value(value: str) -> str:
    if not value or value != value.strip() or not value.isprintable():
        raise mistake("must be printable, not empty, and not begin or end with a space")
    if len(value) > _LONGEST_VALUE:
        raise mistake(f"must have {_LONGEST_VALUE} characters at most")
    return value


SeriesLabelName = Annotated[
    str,
    matching(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}", "must be a label name of Prometheus, such as team"),
]
SeriesLabels = Annotated[
    Mapping[SeriesLabelName, Annotated[str, AfterValidator(_check_label_value)]],
    WrapValidator(_check_label_names),
]
