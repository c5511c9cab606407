"""Reads requests, and refuses them with vLLM's texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.errors import ExporterError
from exporter.simulator.releases import ages, refusals

if TYPE_CHECKING:
    from exporter.simulator.releases.ages import Age

_BAD_REQUEST, _NOT_FOUND = 400, 404


class WireError(ExporterError):
    """A refused request; `body` is vLLM's answer (as seen on 0.32.0)."""

    def __init__(
        self,
        message: str,
        *,
        status: int = _BAD_REQUEST,
        kind: str = "BadRequestError",
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, status, kind, param)


def error_body(message: str, status: int, kind: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def bad_value(message: str, param: str, value: object = ...) -> WireError:
    """A refusal that names a parameter, like vLLM's VLLMValidationError."""
    tail = f"parameter={param}" if value is ... else f"parameter={param}, value={value}"
    return WireError(f"{message} ({tail})", param=param)


class StreamOptions(BaseModel):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatTool(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: str = "function"
    function: dict[str, Any]


class ChatRequest(BaseModel):
    """The fields of a chat request that the simulator uses. vLLM ignores unknown keys too."""

    messages: list[ChatMessage]
    model: str | None = None
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    tools: list[ChatTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    cache_salt: Any = None
    return_token_ids: bool | None = None
    n: int | None = 1
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    return_tokens_as_token_ids: bool | None = None
    prompt_logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class TokenizeRequest(BaseModel):
    """Either a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[ChatTool] | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(BaseModel):
    model: str | None = None
    tokens: list[int] = Field()


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of an answer: prompt plus `max_tokens` fit the context."""

    max_tokens: int
    stop: tuple[str, ...]


_M = TypeVar("_M", bound=BaseModel)


def parse_json(raw: bytes, content_type: str) -> object:
    """The body as JSON."""
    if content_type.split(";", maxsplit=1)[0].strip().lower() != "application/json":
        raise WireError(
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
            kind="Bad Request",
        )
    try:
        return json.loads(raw)
    except json.JSONDecodeError as exc:
        raise invalid(
            [
                {
                    "type": "json_invalid",
                    "loc": ("body", exc.pos),
                    "msg": "JSON decode error",
                    "input": {},
                    "ctx": {"error": exc.msg},
                }
            ]
        ) from exc
    except UnicodeDecodeError as exc:
        raise WireError("There was an error parsing the body") from exc


def parse(kind: type[_M], body: object) -> _M:
    """The body as a request of this kind. Reports all wrong fields at once, as vLLM's FastAPI."""
    try:
        return kind.model_validate(an_object(body))
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        raise invalid([{**error, "loc": ("body", *error["loc"])} for error in errors]) from exc


def an_object(body: object) -> dict[str, Any]:
    """The body, which must be an object."""
    if isinstance(body, dict):
        return body
    message = "Input should be a valid dictionary or object to extract fields from"
    raise invalid(
        [{"type": "model_attributes_type", "loc": ("body",), "msg": message, "input": body}]
    )


def parse_chat(age: Age, body: object) -> ChatRequest:
    """A chat request, after the checks that do not need the prompt."""
    if isinstance(body, dict):
        if body.get("stream_options") and not body.get("stream"):
            raise bad_value(
                "Stream options can only be defined when `stream=True`.", "stream_options"
            )
        body = _with_tool_choice(body)
    request = parse(ChatRequest, body)
    if not request.messages:
        raise WireError(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    if request.temperature is not None and request.temperature < 0:
        raise bad_value(
            f"temperature must be non-negative, got {request.temperature}.",
            "temperature",
            request.temperature,
        )
    salt = request.cache_salt
    if salt is not None and age in ages.SALTS_REFUSED:
        raise _salt_unsupported(body)
    if salt is not None and not (isinstance(salt, str) and salt):
        raise bad_value(
            "Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt"
        )
    if (request.n or 1) != 1 or request.top_logprobs or request.prompt_logprobs is not None:
        raise WireError("The simulator knows neither n > 1 nor top_logprobs nor prompt_logprobs.")
    return request


def _salt_unsupported(body: object) -> WireError:
    """The V0 engine's refusal, which repeats the whole request."""
    why = (
        "Parameter 'cache_salt' is not supported with this instance of vLLM, which uses engine V0."
    )
    shown = {"type": "value_error", "loc": ("body",), "msg": f"Value error, {why}", "input": body}
    return WireError(str([shown | {"ctx": {"error": ValueError(why)}}]), kind="Bad Request")


_OPENAI_FIELDS = frozenset(
    {
        *(
            "messages",
            "model",
            "temperature",
            "seed",
            "max_tokens",
            "max_completion_tokens",
            "stop",
        ),
        *("stream", "stream_options", "tools", "tool_choice", "n", "logprobs", "top_logprobs"),
        *("top_p", "presence_penalty", "frequency_penalty", "response_format", "user"),
    }
)


def refuse_field(body: object, refused: str) -> None:
    """Refuse the first field that a strict gateway does not allow."""
    names = list(body) if isinstance(body, dict) else []
    for name in names:
        if name == refused or (refused == "unknown_to_openai" and name not in _OPENAI_FIELDS):
            raise WireError(
                f"Unrecognized request argument supplied: {name}",
                kind="invalid_request_error",
                param=name,
            )


def check_model(asked: str | None, *served: str) -> None:
    """Refuse an unknown model. No name or an empty one means the first model."""
    if asked and asked not in served:
        raise WireError(
            f"The model `{asked}` does not exist. Valid aliases: {', '.join(served)}.",
            status=_NOT_FOUND,
            kind="NotFoundError",
            param="model",
        )


def limits(
    age: Age,
    request: ChatRequest,
    prompt_tokens: int,
    max_model_len: int,
    named: str | None = None,
) -> Limits:
    """The longest answer, in tokens. Refuses a prompt without room for an answer.

    `named` is the name of the limit in a refusal, if the request came by another API.
    """
    name = named or "max_tokens"
    asked = request.max_completion_tokens
    if asked is None:
        asked = request.max_tokens
    if prompt_tokens > max_model_len:
        message, value = refusals.too_long(age, prompt_tokens, asked or 0, max_model_len)
        if value is None:
            raise WireError(message)
        raise bad_value(message, "input_tokens", value)
    if asked is not None and asked > max_model_len:
        raise bad_value(
            f"{name}={asked} cannot be greater than max_model_len={max_model_len}."
            " Please request fewer output tokens.",
            name,
            asked,
        )
    room = max_model_len - prompt_tokens
    most = room if asked is None else min(asked, room)
    if most < 1:
        raise bad_value(f"max_tokens must be at least 1, got {most}.", "max_tokens", most)
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return Limits(max_tokens=most, stop=tuple(text for text in stop if text))


def _with_tool_choice(body: dict[str, Any]) -> dict[str, Any]:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools == []:
        raise bad_value(
            "`tools` must not be an empty array. Either provide at least one tool or omit the"
            " field entirely.",
            "tools",
        )
    if "tool_choice" not in body and tools:
        return {**body, "tool_choice": "auto"}
    if choice is None or choice == "none":
        return body
    if not isinstance(tools, list):
        raise bad_value("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if isinstance(choice, dict):
        _check_named_tool(choice, tools)
    elif choice not in ("auto", "required"):
        raise bad_value(
            f"Invalid value for `tool_choice`: {choice}! Only named tools,"
            ' "none", "auto" or "required" are supported.',
            "tool_choice",
        )
    return body


def _check_named_tool(choice: dict[str, Any], tools: list[Any]) -> None:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    known = [
        tool["function"].get("name")
        for tool in tools
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    ]
    if name not in known:
        raise bad_value(
            "The tool specified in `tool_choice` does not match any of the specified `tools`",
            "tool_choice",
        )


def invalid(errors: list[Any]) -> WireError:
    """One refusal for all invalid fields."""
    lines = []
    for error in errors:
        shown = {
            "type": error["type"],
            "loc": ".".join(map(str, error["loc"])),
            "msg": error["msg"],
            "input": _shown_input(error["input"]),
        }
        if "ctx" in error:
            shown["ctx"] = error["ctx"]
        lines.append(f"  {shown}")
    plural = "" if len(errors) == 1 else "s"
    return WireError(
        f"{len(errors)} validation error{plural}:\n" + "\n".join(lines),
        kind="Bad Request",
        param=".".join(map(str, errors[0]["loc"])),
    )


def _shown_input(value: object) -> str:
    if isinstance(value, (dict, list)):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)
