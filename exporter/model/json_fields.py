"""Types of fields that pydantic writes as JSON, reads back and describes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, GetPydanticSchema, PlainSerializer
from pydantic_core import core_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import ValidationInfo

Ratio = Annotated[float, Field(ge=0, le=1)]
Tokens = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
JsonTime = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


def rfc3339(unix_time: float) -> str:
    """A Unix time in UTC with milliseconds, as in 2026-01-31T12:00:00.000Z."""
    moment = datetime.fromtimestamp(unix_time, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_as(json_type: Any, made: Callable[[Any, ValidationInfo], Any]) -> GetPydanticSchema:
    """A field whose JSON has another type. `made` converts it to the type of the field."""
    return GetPydanticSchema(
        lambda _, schema_of: core_schema.with_info_after_validator_function(
            made, schema_of(json_type)
        )
    )


UnixTime = Annotated[
    float,
    read_as(datetime, lambda moment, _: moment.timestamp()),
    PlainSerializer(rfc3339, JsonTime),
]
JSON = ConfigDict(use_attribute_docstrings=True, json_schema_serialization_defaults_required=True)
