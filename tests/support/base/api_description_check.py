"""Checks answers of the API against its OpenAPI description, strictly."""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

CHECK_TIMES = FormatChecker()


@CHECK_TIMES.checks("date-time", raises=ValueError)
def _is_rfc3339_in_utc(value: object) -> bool:
    return not isinstance(value, str) or (
        value.endswith("Z") and datetime.fromisoformat(value).tzinfo is not None
    )


def validator(description: dict[str, Any], path: str, status: int = 200) -> Draft202012Validator:
    """The schema of the body of `GET path` with `status`; a key without a description is an error."""
    answer = description["paths"][path]["get"]["responses"][str(status)]
    schema = copy.deepcopy(answer["content"]["application/json"]["schema"])
    components = copy.deepcopy(description["components"])
    for shape in components["schemas"].values():
        if "properties" in shape:
            shape["additionalProperties"] = False
    root = {**schema, "components": components}
    Draft202012Validator.check_schema(root)
    return Draft202012Validator(root, format_checker=CHECK_TIMES)


def faults(description: dict[str, Any], path: str, body: object, status: int = 200) -> list[str]:
    """The errors in an answer: the place and the reason."""
    found = validator(description, path, status).iter_errors(body)
    return [f"{error.json_path}: {error.message}" for error in found]
