"""Keys as paths through the settings, and the conversion of text to values."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from exporter.config.schema.settings import Settings
from exporter.config.schema.values import InConfigFolder

Key = tuple[str | int, ...]
PREFIX = "VLLM_EXPORTER_"
DELIMITER = "__"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting: a field that is not a section."""

    key: Key
    field: FieldInfo


class NotJsonError(ValueError):
    """A text should be a JSON table or list but is not. The message says where."""


def show(key: Key) -> str:
    """The key as text: `targets[0].url`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def variable(key: Key) -> str:
    """The environment variable for `key`."""
    return PREFIX + DELIMITER.join(str(part) for part in key).upper()


def split(text: str) -> list[str]:
    """The parts of `targets[0].url` or `targets.0.url`."""
    return [part for part in re.split(r"[.\[\]]+", text) if part]


def resolve(parts: Sequence[str]) -> Key | None:
    """The key that `parts` name, in any case; None if there is no such setting."""
    node: Any = Settings
    key: list[str | int] = []
    for part in parts:
        step = _step(node, part)
        if step is None:
            return None
        key.append(step[0])
        node = step[1]
    return tuple(key) if key else None


def node_at(key: Key) -> Any | None:
    """The type of the value at `key`, without Optional and Annotated; None for an unknown key."""
    node: Any = Settings
    for part in key:
        step = _step(node, str(part))
        if step is None or step[0] != part:
            return None
        node = step[1]
    return node


def default_at(key: Key) -> Any | None:
    """The default of the field at `key`; None if it has none or `key` is not a field."""
    field = field_at(key)
    if field is None or field.is_required():
        return None
    return field.get_default(call_default_factory=True, validated_data={})


def _step(node: Any, part: str) -> tuple[str | int, Any] | None:
    if is_section(node):
        name = part.lower()
        field = node.model_fields.get(name)
        return None if field is None else (name, bare(field.annotation))
    if is_list(node):
        return (int(part), bare(get_args(node)[0])) if re.fullmatch(r"[0-9]{1,4}", part) else None
    if is_mapping(node):
        return part, bare(get_args(node)[1])
    return None


def bare(annotation: Any) -> Any:
    """The type without Annotated, and without `| None`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return bare(get_args(annotation)[0])
    if origin in (Union, UnionType):
        others = [each for each in get_args(annotation) if each is not type(None)]
        if len(others) == 1:
            return bare(others[0])
    return annotation


def is_section(node: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(node, type) and issubclass(node, BaseModel)


def is_list(node: Any) -> bool:
    return get_origin(node) is tuple


def is_mapping(node: Any) -> bool:
    return get_origin(node) is Mapping


def is_path(field: FieldInfo, value: str) -> bool:
    """Whether `value`, set in a file, is a path relative to that file's folder."""
    marks = (*_marks(field.annotation), *field.metadata)
    return any(isinstance(mark, InConfigFolder) and mark.marks(value) for mark in marks)


def _marks(annotation: Any) -> Iterator[Any]:
    for each in get_args(annotation):
        yield each
        yield from _marks(each)


def description(field: FieldInfo) -> str:
    """The field's docstring, as one line."""
    return " ".join((field.description or "").split())


def field_at(key: Key) -> FieldInfo | None:
    section = node_at(key[:-1])
    return section.model_fields.get(str(key[-1])) if is_section(section) else None


def is_secret(node: Any) -> bool:
    """Whether the value is a secret or contains one."""
    if is_section(node):
        return any(is_secret(bare(field.annotation)) for field in node.model_fields.values())
    return node is SecretStr or any(is_secret(bare(each)) for each in get_args(node))


def leaves(section: type[BaseModel] = Settings, at: Key = ()) -> Iterator[Leaf]:
    """Every setting below `section`, in the order of the models. Lists have index 0."""
    for name, field in section.model_fields.items():
        node, key = bare(field.annotation), (*at, name)
        if is_section(node):
            yield from leaves(node, key)
        elif is_list(node) and is_section(inner := bare(get_args(node)[0])):
            yield Leaf(key, field)
            yield from leaves(inner, (*key, 0))
        else:
            yield Leaf(key, field)


def from_text(key: Key, text: str) -> Any:
    """The value for `key` from the text of a variable, a secrets file or the command line.

    Tables and lists must be JSON, or NotJsonError is raised. Validation checks everything else.
    """
    node = node_at(key)
    if node is Any:
        return _json_or_text(text)
    wants_table = is_section(node) or is_mapping(node)
    if not (wants_table or is_list(node) or _may_be_list(node, text)):
        return text
    form = "a JSON object" if wants_table else "a JSON list"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise NotJsonError(f"must be {form}{where}") from None
    if not isinstance(value, dict if wants_table else list):
        raise NotJsonError(f"must be {form}")
    return value


def _json_or_text(text: str) -> Any:
    """The value of a text that is JSON, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _may_be_list(node: Any, text: str) -> bool:
    """Whether this is the list form of a setting with several forms (`gpus`)."""
    return any(is_list(each) for each in get_args(node)) and text.lstrip().startswith("[")


def suggestion(key: Key) -> str:
    """A question to append to a message about an unknown key; "" without a similar key."""
    parent = node_at(key[:-1])
    name = str(key[-1])
    if is_section(parent):
        near = difflib.get_close_matches(name, parent.model_fields, n=1)
        if near:
            return f"; did you mean {show((*key[:-1], near[0]))}?"
    elsewhere = [show(leaf.key) for leaf in leaves() if leaf.key[-1] == name.lower()]
    return f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else ""


def variable_suggestion(name: str) -> str:
    """The same for an environment variable; an index in its name stays."""
    index = next(iter(re.findall(r"__(\d+)__", name)), "0")
    known = [variable(leaf.key).replace("__0__", f"__{index}__") for leaf in leaves()]
    # Without the prefix: it would make all names similar.
    endings = [each.removeprefix(PREFIX) for each in known]
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), endings, n=1, cutoff=0.7)
    return f"; did you mean {PREFIX}{near[0]}?" if near else ""
