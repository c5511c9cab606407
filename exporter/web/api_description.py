"""The OpenAPI description of /api/v1, made from the types of its answers."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import TypeAdapter

import exporter
from exporter.web.api_shape import ErrorJson, HttpSdGroupJson, SessionsJson, TargetsJson
from exporter.web.parameters import MAX_LIMIT

_TARGET = {
    "name": "target",
    "in": "query",
    "description": "Only this target. An unknown name is an error.",
    "schema": {"type": "string"},
}
_LIMIT = {
    "name": "limit",
    "in": "query",
    "description": f"The maximum number of sessions; {MAX_LIMIT} without it.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
}

_REF = "#/components/schemas/{model}"


@cache
def description() -> dict[str, Any]:
    """The whole document, OpenAPI 3.1: its schemas are JSON Schema 2020-12."""
    shapes = {
        "sessions": SessionsJson,
        "targets": TargetsJson,
        "pages": list[HttpSdGroupJson],
        "error": ErrorJson,
    }
    answers, schemas = TypeAdapter.json_schemas(
        [(name, "serialization", TypeAdapter(shape)) for name, shape in shapes.items()],
        ref_template=_REF,
    )
    schema = {name: answers[name, "serialization"] for name in shapes}
    refused = _answer("A parameter is wrong.", schema["error"])
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "vllm-cache-exporter",
            "summary": "The measured targets and their sessions.",
            "description": (
                "Seconds, tokens, ratios from 0 to 1; times are RFC 3339 in UTC. An unknown value "
                "is null. New versions may add keys; they do not rename or remove any."
            ),
            "version": exporter.__version__,
        },
        "servers": [{"url": "../.."}],
        "paths": {
            "/api/v1/sessions": _get(
                "sessions",
                "The last sessions, newest first",
                {"200": _answer("The remembered sessions.", schema["sessions"]), "400": refused},
                parameters=[_TARGET, _LIMIT],
            ),
            "/api/v1/targets": _get(
                "targets",
                "The current state of every target",
                {"200": _answer("The targets.", schema["targets"]), "400": refused},
                parameters=[_TARGET],
            ),
            "/api/v1/http-sd": _get(
                "http_sd",
                "The pages of all targets, for Prometheus's http_sd",
                {"200": _answer("The pages.", schema["pages"]), "400": refused},
            ),
            "/api/v1/openapi.json": _get(
                "openapi", "This description", {"200": _answer("OpenAPI 3.1.", {"type": "object"})}
            ),
        },
        "components": {"schemas": schemas["$defs"]},
    }
    return _as_published(document)


def _as_published(document: dict[str, Any]) -> dict[str, Any]:
    """Each schema under its title: `SessionJson`, not the name of the class. Without defaults,
    which are those of the class and not of an answer.
    """
    schemas, text = document["components"]["schemas"], json.dumps(document)
    for name, schema in schemas.items():
        title = schema["title"]
        text = text.replace(f'"{name}": {{', f'"{title}": {{')
        text = text.replace(f'"{_REF.format(model=name)}"', f'"{_REF.format(model=title)}"')
    published: dict[str, Any] = json.loads(text)
    for schema in published["components"]["schemas"].values():
        for key in schema.get("properties", {}).values():
            key.pop("default", None)
            key.pop("readOnly", None)
    return published


def _get(
    operation: str, summary: str, answers: dict[str, Any], **parameters: list[dict[str, Any]]
) -> dict[str, Any]:
    described = {"operationId": operation, "summary": summary} | parameters
    return {"get": described | {"responses": answers}}


def _answer(words: str, schema: Any) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": schema}}}
