"""Generates the Markdown reference of all settings from the models.

`python -m exporter.config.telling.reference docs/configuration.md` updates it in that file.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from exporter.config.schema import keys
from exporter.config.schema.container import MANAGED_ONLY, ContainerSettings
from exporter.config.schema.keys import Key
from exporter.config.schema.settings import Settings
from exporter.config.schema.values import Gpus, ListenAddress, show_bytes
from exporter.model.engine import Adapters

BEGIN = (
    "<!-- reference: begin (python -m exporter.config.telling.reference docs/configuration.md) -->"
)
END = "<!-- reference: end -->"
_KINDS: dict[Any, str] = {
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    SecretStr: "secret",
    Adapters: '`"all"` or list',
    int | str: "port number or name",
    Gpus: '`"all"`, count or list',
    ListenAddress: "`host:port`",
}


def reference() -> str:
    """All settings, one table per section."""
    return "\n".join(_tables(Settings, ())).strip() + "\n"


def renew(page: str) -> str:
    """The page with a new reference between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def _tables(section: type[BaseModel], at: Key) -> Iterator[str]:
    inner = []
    rows = []
    for name, field in section.model_fields.items():
        node = keys.bare(field.annotation)
        below = keys.bare(get_args(node)[0]) if keys.is_list(node) else node
        if keys.is_section(below):
            inner.append((below, (*at, name)))
        if not keys.is_section(node):
            rows.append(_row(name, field, section))
    yield from (f"### {_title(at)}", "", *_intro(section), "| key | allowed | default | |")
    yield from ("| --- | --- | --- | --- |", *rows, "")
    for each, key in inner:
        yield from _tables(each, key)


def _title(at: Key) -> str:
    if not at:
        return "Top level"
    path = ".".join(str(part) for part in at)
    field = keys.field_at(at)
    is_list = field is not None and keys.is_list(keys.bare(field.annotation))
    return f"`[[{path}]]`" if is_list else f"`[{path}]`"


def _intro(section: type[BaseModel]) -> list[str]:
    text = " ".join((section.__doc__ or "").split())
    if section is ContainerSettings:
        text = (
            "One container and how to supervise it. Keys marked *managed* say how to create it; "
            "they are not allowed in mode `attached`."
        )
    return [text, ""]


def _row(name: str, field: FieldInfo, section: type[BaseModel]) -> str:
    managed = "*managed* " if section is ContainerSettings and name in MANAGED_ONLY else ""
    text = managed + keys.description(field)
    cells = (f"`{name}`", _allowed(field), _default(field), text)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _allowed(field: FieldInfo) -> str:
    node = keys.bare(field.annotation)
    if get_origin(node) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(node))
    if _is_bytes(field):
        return "size"
    if keys.is_list(node):
        return "list"
    if keys.is_mapping(node):
        return "table of secrets" if keys.is_secret(node) else "table"
    bounds = ", ".join(_bounds(field))
    return f"{_KINDS[node]} {bounds}".strip()


def _bounds(field: FieldInfo) -> list[str]:
    """The strictest lower and upper bound: the models put it last."""
    lower = upper = None
    for mark in _marks(field):
        match mark:
            case annotated_types.Gt(gt=bound):
                lower = f"> {bound}"
            case annotated_types.Ge(ge=bound):
                lower = f"≥ {bound}"
            case annotated_types.Lt(lt=bound):
                upper = f"< {bound}"
            case annotated_types.Le(le=bound):
                upper = f"≤ {bound}"
    return [bound for bound in (lower, upper) if bound is not None]


def _marks(field: FieldInfo) -> list[Any]:
    """Metadata of the field, also of the type in `… | None`."""
    marks = list(field.metadata)
    for each in get_args(field.annotation):
        for inner in get_args(each)[1:]:
            marks += inner.metadata if isinstance(inner, FieldInfo) else [inner]
    return marks


def _is_bytes(field: FieldInfo) -> bool:
    return any(getattr(mark, "func", None) is show_bytes for mark in _marks(field))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return ""
    if _is_bytes(field):
        value = show_bytes(value)
    if isinstance(value, ListenAddress):
        value = str(value)
    return f"`{json.dumps(value)}`"


def main(arguments: list[str]) -> None:
    if not arguments:
        sys.stdout.write(reference())
        return
    page = Path(arguments[0])
    page.write_text(renew(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
