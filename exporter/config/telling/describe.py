"""The settings in force as text: TOML for a file, or JSON."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from exporter.config.reading.load import Loaded
from exporter.config.reading.mistakes import HIDDEN
from exporter.config.schema import keys
from exporter.config.schema.container import ENGINE_FLAGS, MANAGED_ONLY
from exporter.config.schema.keys import Key


def describe(loaded: Loaded) -> str:
    """TOML with every key, its value and its source. Secrets are hidden, in comments.

    As a file it gives the same settings, except for secrets.
    """
    lines = list(_section(loaded, _plain(loaded), ()))
    lines += [f"# {_one_line(note)}" for note in loaded.ignored]
    return "\n".join(lines).strip() + "\n"


def describe_json(loaded: Loaded) -> str:
    """An object of `settings` (nested, secrets hidden), `sources` (by key) and `ignored`."""
    settings = _hidden(loaded, _plain(loaded), ())
    everything = {
        "settings": settings,
        "sources": {keys.show(key): _source(loaded, key) for key in _leaf_keys(settings, ())},
        "ignored": list(loaded.ignored),
    }
    return json.dumps(everything, indent=2, ensure_ascii=False) + "\n"


def _plain(loaded: Loaded) -> dict[str, Any]:
    return loaded.settings.model_dump(mode="json")


def _section(loaded: Loaded, values: Mapping[str, Any], at: Key) -> Iterator[str]:
    """The keys of one table, then the tables below it: TOML requires this order."""
    tables = {}
    for name, value in values.items():
        key = (*at, name)
        node = keys.node_at(key)
        if not _applies(loaded, key):
            continue
        if keys.is_section(node) or (value and keys.is_list(node) and isinstance(value[0], dict)):
            tables[key] = value
        else:
            yield _line(loaded, key, value)
    for key, value in tables.items():
        if isinstance(value, list):
            for index, each in enumerate(value):
                yield from ("", f"[[{_header(key)}]]")
                yield from _section(loaded, each, (*key, index))
        elif value is not None:
            yield from ("", f"[{_header(key)}]")
            yield from _section(loaded, value, key)


def _header(key: Key) -> str:
    return ".".join(part for part in key if isinstance(part, str))


def _applies(loaded: Loaded, key: Key) -> bool:
    """Whether the key applies to the mode of its target."""
    if len(key) != 4 or key[2] != "container":  # noqa: PLR2004 - targets, index, container, name
        return True
    target = loaded.settings.targets[int(key[1])]
    if target.mode == "attached":
        return key[3] not in MANAGED_ONLY
    command = target.container is not None and target.container.command is not None
    return not (command and key[3] in ENGINE_FLAGS)


def _line(loaded: Loaded, key: Key, value: Any) -> str:
    source = _one_line(_source(loaded, key))
    if value is None:
        return f"# {key[-1]} is not set"
    shown = _hidden(loaded, value, key)
    # A hidden value must be a comment: in a file it would be read as the secret.
    comment = "# " if shown != value else ""
    return f"{comment}{key[-1]} = {_toml(shown)}  # {source}"


def _hidden(loaded: Loaded, value: Any, key: Key) -> Any:
    """The value with stars for every secret in it."""
    node = keys.node_at(key)
    if value is None:
        return None
    if keys.show(key) in loaded.secret_keys and not isinstance(value, dict | list):
        return HIDDEN
    if isinstance(value, dict):
        return {name: _hidden(loaded, each, (*key, name)) for name, each in value.items()}
    if isinstance(value, list):
        return [_hidden(loaded, each, (*key, index)) for index, each in enumerate(value)]
    return HIDDEN if keys.is_secret(node) else value


def _source(loaded: Loaded, key: Key) -> str:
    """The source of the value. A list or table set in parts has several sources."""
    here = keys.show(key)
    parts = [
        source
        for name, source in loaded.sources.items()
        if name == here or name.startswith((f"{here}.", f"{here}["))
    ]
    return ", ".join(dict.fromkeys(parts)) or "default"


def _leaf_keys(values: Mapping[str, Any], at: Key) -> Iterator[Key]:
    for name, value in values.items():
        key = (*at, name)
        if keys.is_section(keys.node_at(key)) and value is not None:
            yield from _leaf_keys(value, key)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, each in enumerate(value):
                yield from _leaf_keys(each, (*key, index))
        else:
            yield key


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's strings are also TOML's, except for one character that TOML escapes.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, dict):
        pairs = (f"{_toml(name)} = {_toml(each)}" for name, each in value.items())
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    return repr(value)


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "?", text)
