"""Reads each source into values with their origin, and reports what cannot be read.

pydantic-settings reads the files. This module adds three things: it reports every value that is not
JSON, not only the first; it reports unknown nested names; and it supports `TARGETS__0__URL`.
"""

import io
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream
from pydantic_settings import DotEnvSettingsSource, TomlConfigSettingsSource

from exporter.config.reading.origin import GivenValue, Mistake, Origin, Priority
from exporter.config.schema import keys
from exporter.config.schema.keys import DELIMITER, PREFIX, Key
from exporter.config.schema.settings import Settings

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
SECRETS_DIR_VARIABLE = f"{PREFIX}SECRETS_DIR"
_RESERVED = frozenset({CONFIG_VARIABLE, SECRETS_DIR_VARIABLE})
DEFAULT_SECRETS_DIR = Path("/run/secrets")
# Variables that are often set for vLLM itself; plain.py says which settings they fill.
PLAIN = frozenset(
    {"VLLM_HOST", "MODEL_ID", "HF_TOKEN", "HF_TOKEN_FILE", "GPU_MEM_UTIL", "MAX_MODEL_LEN", "PORT"}
)
# Kubernetes sets these in every pod of a namespace that has a Service named "vllm-exporter".
_SERVICE_LINK = re.compile(
    r"VLLM_EXPORTER_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_[A-Z]+(_(PROTO|PORT|ADDR))?)?)"
)
_DEEPEST = 20  # levels of tables and lists; settings have six
_LARGEST_SECRET = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class PlainVariable:
    """A plain variable as found in one source."""

    name: str
    text: str
    origin: Origin


@dataclass(slots=True)
class SourceValues:
    """The values of all sources."""

    givens: list[GivenValue] = field(default_factory=list)
    plains: list[PlainVariable] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    readable: bool = True  # False: a file could not be read, so do not check the rest

    def unreadable(self, origin: str, message: str) -> None:
        self.mistakes.append(Mistake(origin, message))
        self.readable = False


def read_toml(path: Path, into: SourceValues) -> None:
    origin = Origin(str(path), Priority.FILE)
    data = _toml_of(path)
    if isinstance(data, str):
        into.unreadable(origin.text, data)
        return
    folder = path.absolute().parent
    into.givens += [
        GivenValue((name,), _paths_from(folder, (name,), value), origin)
        for name, value in data.items()
    ]


def _toml_of(path: Path) -> dict[str, Any] | str:
    """The tables of a file, or what is wrong with it."""
    if not path.is_file():  # pydantic-settings would take it for an empty file
        return f"cannot be read: it {'is not a file' if path.exists() else 'does not exist'}"
    try:
        data = TomlConfigSettingsSource(Settings, toml_file=path).toml_data
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except tomllib.TOMLDecodeError as error:
        return f"is not TOML: {error}"
    except UnicodeDecodeError as error:
        return f"is not UTF-8: byte {error.start + 1}"
    except ValueError:  # Python's own limit, 4300 digits
        return "has a number with too many digits"
    except RecursionError:
        return "is nested too deeply"
    return "is nested too deeply" if _is_deep(data) else data


def _is_deep(value: Any) -> bool:
    """Whether tables are nested deeper than any setting: recursion over them could fail."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _paths_from(folder: Path, key: Key, value: Any) -> Any:
    """The value with relative paths made absolute: they are relative to the file."""
    if isinstance(value, dict):
        return {name: _paths_from(folder, (*key, name), each) for name, each in value.items()}
    if isinstance(value, list):
        return [_paths_from(folder, (*key, index), each) for index, each in enumerate(value)]
    # A value of a table is a path if the table's setting says so.
    setting = keys.field_at(key) or (keys.field_at(key[:-1]) if len(key) > 1 else None)
    if isinstance(value, str) and setting is not None and keys.is_path(setting, value):
        return str(folder / Path(value).expanduser())
    return value


def read_dotenv(path: Path, into: SourceValues) -> None:
    """A missing file is no mistake."""
    if not path.exists():
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        into.unreadable(str(path), f"cannot be read: {reason}")
        return
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            into.unreadable(f"{path}, line {binding.original.line}", "must be NAME=value")
    if into.readable:
        found = DotEnvSettingsSource(Settings, env_file=path, case_sensitive=True).env_vars
        pairs = [(name, value) for name, value in found.items() if value is not None]
        _read_variables(pairs, f"{path}, variable", (Priority.DOTENV_PLAIN, Priority.DOTENV), into)


def read_environment(environ: Mapping[str, str], into: SourceValues) -> None:
    linked = f"{PREFIX}SERVICE_HOST" in environ
    pairs = [
        (name, value)
        for name, value in environ.items()
        if name not in _RESERVED and not (linked and _SERVICE_LINK.fullmatch(name))
    ]
    priorities = (Priority.ENVIRONMENT_PLAIN, Priority.ENVIRONMENT)
    _read_variables(pairs, "environment variable", priorities, into)


def read_secrets(folder: Path, into: SourceValues) -> None:
    """Reads files that are named like the variables, in lower or upper case. Skips others."""
    try:
        files = sorted(each for each in folder.iterdir() if _is_ours(each.name) and each.is_file())
    except OSError as error:
        message = f"the secrets directory cannot be read: {error.strerror}"
        into.mistakes.append(Mistake(str(folder), message))
        return
    pairs = []
    for file in files:
        text = read_secret(file)
        if isinstance(text, Mistake):
            into.mistakes.append(text)
        else:
            pairs.append((file.name, text))
    where = f"secrets file {folder}/"
    _read_variables(pairs, where, (Priority.SECRETS_PLAIN, Priority.SECRETS), into)


def _is_ours(name: str) -> bool:
    return name.upper() in PLAIN or name.upper().startswith(PREFIX)


def read_secret(file: Path) -> str | Mistake:
    """The text of a file with one secret, without the space around it."""
    try:
        with file.open("rb") as opened:  # a device can be endless
            content = opened.read(_LARGEST_SECRET + 1)
        if len(content) > _LARGEST_SECRET:
            return Mistake(f"secrets file {file}", "is too large: a secret has at most 1 MiB")
        text = content.decode().strip()
    except OSError as error:
        return Mistake(f"secrets file {file}", f"cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        return Mistake(f"secrets file {file}", "is not UTF-8 text")
    return text or Mistake(f"secrets file {file}", "is empty")


def read_command_line(values: Mapping[str, str], into: SourceValues) -> None:
    """`values` maps keys (`probe.interval_seconds`, `targets[0].url`) to text."""
    for text, value in values.items():
        origin = Origin(f"command line, {option(text)}", Priority.COMMAND_LINE)
        key = keys.resolve(keys.split(text))
        if key is None:
            hint = keys.suggestion(tuple(keys.split(text)) or ("",))
            into.mistakes.append(Mistake(origin.text, f"unknown key{hint}"))
        else:
            _take(key, value, origin, into)


def option(text: str) -> str:
    """The key as a command line option."""
    has_flag = text in {keys.show(leaf.key) for leaf in keys.leaves()} and "[" not in text
    return f"--{text}" if has_flag else f"--set {text}"


def _read_variables(
    pairs: Iterable[tuple[str, str]],
    where: str,
    priorities: tuple[Priority, Priority],
    into: SourceValues,
) -> None:
    plain_priority, priority = priorities
    for name, text in pairs:
        if not text.strip():  # empty, such as compose's ${X:-}
            continue
        is_file = priority is Priority.SECRETS
        words = f"{where}{name}" if is_file else f"{where} {name}"
        if name in PLAIN or (is_file and name.upper() in PLAIN):
            into.plains.append(
                PlainVariable(name.upper(), text.strip(), Origin(words, plain_priority))
            )
        elif name.upper().startswith(PREFIX):
            origin = Origin(words, priority)
            key = keys.resolve(name[len(PREFIX) :].split(DELIMITER))
            if name in _RESERVED:
                into.mistakes.append(Mistake(origin.text, "works only in the environment"))
            elif key is None:
                hint = keys.variable_suggestion(name)
                into.mistakes.append(Mistake(origin.text, f"unknown variable{hint}"))
            else:
                _take(key, text, origin, into)


def _take(key: Key, text: str, origin: Origin, into: SourceValues) -> None:
    try:
        value = keys.from_text(key, text)
    except keys.NotJsonError as error:
        into.mistakes.append(Mistake(origin.text, str(error), keys.show(key)))
        return
    if _is_deep(value):
        into.mistakes.append(Mistake(origin.text, "is nested too deeply", keys.show(key)))
    else:
        into.givens.append(GivenValue(key, value, origin))
