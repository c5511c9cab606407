"""Turns pydantic's errors into sentences with origin, key, value and what is allowed."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from exporter.config.reading.merge import Merged
from exporter.config.reading.origin import DEFAULT, Mistake
from exporter.config.schema import keys
from exporter.config.schema.keys import Key
from exporter.config.schema.vllm_flags import flag_of
from exporter.errors import ConfigError

HIDDEN = "********"
_WORDS = {
    "missing": "is required",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "mapping_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "string_unicode": "must be text that can be written as UTF-8",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "path_type": "must be a path",
}
_BOUNDS = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be {le:g} or less",
}
_URL_KEYS = frozenset({"url", "metrics_url", "metrics_urls", "docker_host"})
_MOST_SHOWN = 100  # mistakes; suggestions for thousands of unknown keys would take seconds
_LONGEST = 80  # characters of a value that are shown


def mistakes_of(error: ValidationError, merged: Merged) -> list[Mistake]:
    lines = error.errors(include_url=False)
    return [_mistake(line, merged, hint=n < _MOST_SHOWN) for n, line in enumerate(lines)]


def _mistake(line: Any, merged: Merged, *, hint: bool) -> Mistake:
    key: Key = tuple(part for part in line["loc"] if part != "[key]")
    if line["type"] == "extra_forbidden":
        origin = merged.origin_of(key) or DEFAULT
        # The value can be a secret under a misspelt key, so hide it.
        near = keys.suggestion(key) if hint else ""
        return Mistake(origin.text, f"unknown key{near}", keys.show(key))
    message = words_of(line)
    if key == ("targets",) and isinstance(merged.get(key), dict):
        message = "must be a list: write [[targets]]"
    value = merged.get(key)
    if value is None and (of_field := keys.default_at(key)) is not None:
        return Mistake(DEFAULT.text, message, keys.show(key), shown(key, of_field))
    origin = merged.origin_of(key) or DEFAULT
    if value is None or origin.is_secret:
        return Mistake(origin.text, message, keys.show(key))
    return Mistake(origin.text, message, keys.show(key), shown(key, value))


def words_of(line: Any) -> str:
    kind: str = line["type"]
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**line["ctx"])
    if kind == "literal_error":
        return f"must be {line['ctx']['expected']}".replace("'", '"')
    return _WORDS.get(kind) or re.sub(r"^\w+ should ", "must ", line["msg"])


def shown(key: Key, value: Any) -> str | None:
    """The value for a message; None if it could contain a secret."""
    if "args" in key:
        flag = flag_of(value) if isinstance(value, str) else None
        # A secret can follow the flag, as in "--api-key sk-…".
        return _quoted(flag.split(maxsplit=1)[0]) if flag is not None else None
    if "command" in key or "environment" in key or keys.is_secret(keys.node_at(key)):
        return None
    if isinstance(value, dict | list):
        return None  # too long; its parts have their own messages
    text = str(value) if value is not None else ""
    if not _URL_KEYS.isdisjoint(key[-2:]):
        return _quoted(without_credentials(text))
    if isinstance(value, bool | int | float):
        return text.lower() if isinstance(value, bool) else text
    return _quoted(text)


def without_credentials(url: str) -> str:
    """The URL without possible passwords: before an @, in the query or in the fragment."""
    url = re.sub(r"^(\w[\w+.-]*://)?.*@", rf"\1{HIDDEN}@", url, flags=re.DOTALL)
    return re.sub(r"[?#].+", f"?{HIDDEN}", url, flags=re.DOTALL)


def _quoted(text: str) -> str:
    """In quotes, cut, and without texts that look like a token under a wrong key."""
    text = re.sub(r"\b(hf_|sk-)[^\s/]+", HIDDEN, text)
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return json.dumps(short, ensure_ascii=False)


def config_error(mistakes: Sequence[Mistake]) -> ConfigError:
    lines = list(dict.fromkeys(str(mistake) for mistake in _without_echoes(mistakes)))
    count = "a mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    listed = lines[:_MOST_SHOWN]
    if len(lines) > len(listed):
        listed.append(f"and {len(lines) - len(listed)} more")
    return ConfigError("\n".join([f"The configuration has {count}:", *(f"  {x}" for x in listed)]))


def _without_echoes(mistakes: Sequence[Mistake]) -> Iterable[Mistake]:
    """Leave out "is required" for a key that has another mistake."""
    reported = {
        mistake.key for mistake in mistakes if mistake.key and "is required" not in mistake.message
    }
    return [m for m in mistakes if not ("is required" in m.message and m.key in reported)]
