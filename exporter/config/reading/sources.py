"""The sources, each read into values with their origin; what cannot be read is a mistake.

pydantic-settings reads the files. What it does not do is done here: it stops at the first value
that is no JSON, passes over a nested name that it does not know, and has no `TARGETS__0__URL`.
"""

import io
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream
from pydantic_settings import DotEnvSettingsSource, TomlConfigSettingsSource

from exporter.config.reading.origin import Given, Mistake, Place, Rung
from exporter.config.schema import keys
from exporter.config.schema.keys import DELIMITER, PREFIX, Key
from exporter.config.schema.settings import Settings

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
SECRETS_DIR_VARIABLE = f"{PREFIX}SECRETS_DIR"
_RESERVED = frozenset({CONFIG_VARIABLE, SECRETS_DIR_VARIABLE})
DEFAULT_SECRETS_DIR = Path("/run/secrets")
# Variables that people have set already for vLLM itself; plain.py says what they fill.
PLAIN = frozenset(
    {"VLLM_HOST", "MODEL_ID", "HF_TOKEN", "HF_TOKEN_FILE", "GPU_MEM_UTIL", "MAX_MODEL_LEN", "PORT"}
)
# Kubernetes sets these in every pod of a namespace that has a Service named "vllm-exporter".
_SERVICE_LINK = re.compile(
    r"VLLM_EXPORTER_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_[A-Z]+(_(PROTO|PORT|ADDR))?)?)"
)
_DEEPEST = 20  # levels of tables and lists; settings have six
_LARGEST_SECRET = 1 << 20  # bytes; anything larger in a secrets directory is not for us


@dataclass(frozen=True, slots=True)
class Plain:
    """A plain variable as found in one source."""

    name: str
    text: str
    place: Place


@dataclass(slots=True)
class Reading:
    """What the sources gave."""

    givens: list[Given] = field(default_factory=list)
    plains: list[Plain] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    readable: bool = True  # False: a file is missing from the picture, so do not judge the rest


def read_toml(path: Path, into: Reading) -> None:
    place = Place(str(path), Rung.FILE)
    into.readable = False
    if not path.is_file():  # the reader below would take it for an empty one
        reason = "it is not a file" if path.exists() else "it does not exist"
        into.mistakes.append(Mistake(place.text, f"cannot be read: {reason}"))
        return
    try:
        data = TomlConfigSettingsSource(Settings, toml_file=path).toml_data
    except OSError as error:
        into.mistakes.append(Mistake(place.text, f"cannot be read: {error.strerror}"))
    except tomllib.TOMLDecodeError as error:
        into.mistakes.append(Mistake(place.text, f"is not TOML: {error}"))
    except UnicodeDecodeError as error:
        into.mistakes.append(Mistake(place.text, f"is not UTF-8: byte {error.start + 1}"))
    except ValueError:  # Python's own limit, 4300 digits
        into.mistakes.append(Mistake(place.text, "has a number with too many digits"))
    except RecursionError:
        into.mistakes.append(Mistake(place.text, "is nested too deeply"))
    else:
        if _is_deep(data):
            into.mistakes.append(Mistake(place.text, "is nested too deeply"))
            return
        folder = path.absolute().parent
        into.givens += [
            Given((name,), _paths_from(folder, (name,), value), place)
            for name, value in data.items()
        ]
        into.readable = True


def _is_deep(value: Any) -> bool:
    """Whether tables lie in each other deeper than any setting, too deep for what walks them."""
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
    """The value with the relative paths in it made absolute: they are meant from the file."""
    if isinstance(value, dict):
        return {name: _paths_from(folder, (*key, name), each) for name, each in value.items()}
    if isinstance(value, list):
        return [_paths_from(folder, (*key, index), each) for index, each in enumerate(value)]
    setting = keys.field_at(key)
    if isinstance(value, str) and setting is not None and keys.is_path(setting, value):
        return str(folder / Path(value).expanduser())
    return value


def read_dotenv(path: Path, into: Reading) -> None:
    """A file that is not there is no mistake: most places have none."""
    if not path.exists():
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        into.mistakes.append(Mistake(str(path), f"cannot be read: {reason}"))
        into.readable = False
        return
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            into.mistakes.append(
                Mistake(f"{path}, line {binding.original.line}", "must be NAME=value")
            )
            into.readable = False
    if into.readable:
        found = DotEnvSettingsSource(Settings, env_file=path, case_sensitive=True).env_vars
        pairs = [(name, value) for name, value in found.items() if value is not None]
        _read_variables(pairs, f"{path}, variable", (Rung.DOTENV_PLAIN, Rung.DOTENV), into)


def read_environment(environ: Mapping[str, str], into: Reading) -> None:
    linked = f"{PREFIX}SERVICE_HOST" in environ
    pairs = [
        (name, value)
        for name, value in environ.items()
        if name not in _RESERVED and not (linked and _SERVICE_LINK.fullmatch(name))
    ]
    rungs = (Rung.ENVIRONMENT_PLAIN, Rung.ENVIRONMENT)
    _read_variables(pairs, "environment variable", rungs, into)


def read_secrets(folder: Path, into: Reading) -> None:
    """Files named like the variables, in lower or upper case; others are none of our business."""
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
    _read_variables(pairs, where, (Rung.SECRETS_PLAIN, Rung.SECRETS), into)


def _is_ours(name: str) -> bool:
    return name.upper() in PLAIN or name.upper().startswith(PREFIX)


def read_secret(file: Path) -> str | Mistake:
    """The text of a file that holds one secret, without the space around it."""
    try:
        with file.open("rb") as opened:  # a device has the size 0 and no end
            content = opened.read(_LARGEST_SECRET + 1)
        if len(content) > _LARGEST_SECRET:
            return Mistake(f"secrets file {file}", "is too large: a secret has at most 1 MiB")
        text = content.decode().strip()
    except OSError as error:
        return Mistake(f"secrets file {file}", f"cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        return Mistake(f"secrets file {file}", "is not UTF-8 text")
    return text or Mistake(f"secrets file {file}", "is empty")


def read_command_line(values: Mapping[str, str], into: Reading) -> None:
    """`values` maps keys (`probe.interval_seconds`, `targets[0].url`) to what was written."""
    for text, value in values.items():
        place = Place(f"command line, {option(text)}", Rung.COMMAND_LINE)
        key = keys.resolve(keys.split(text))
        if key is None:
            hint = keys.suggestion(tuple(keys.split(text)) or ("",))
            into.mistakes.append(Mistake(place.text, f"unknown key{hint}"))
        else:
            _take(key, value, place, into)


def option(text: str) -> str:
    """How a key is written on the command line."""
    has_flag = text in {keys.show(leaf.key) for leaf in keys.leaves()} and "[" not in text
    return f"--{text}" if has_flag else f"--set {text}"


def _read_variables(
    pairs: Iterable[tuple[str, str]], where: str, rungs: tuple[Rung, Rung], into: Reading
) -> None:
    plain_rung, rung = rungs
    for name, text in pairs:
        if not text.strip():  # set to nothing, as compose does with ${X:-}
            continue
        is_file = rung is Rung.SECRETS
        words = f"{where}{name}" if is_file else f"{where} {name}"
        if name in PLAIN or (is_file and name.upper() in PLAIN):
            into.plains.append(Plain(name.upper(), text.strip(), Place(words, plain_rung)))
        elif name.upper().startswith(PREFIX):
            place = Place(words, rung)
            key = keys.resolve(name[len(PREFIX) :].split(DELIMITER))
            if name in _RESERVED:
                into.mistakes.append(Mistake(place.text, "works only in the environment"))
            elif key is None:
                hint = keys.variable_suggestion(name)
                into.mistakes.append(Mistake(place.text, f"unknown variable{hint}"))
            else:
                _take(key, text, place, into)


def _take(key: Key, text: str, place: Place, into: Reading) -> None:
    try:
        value = keys.from_text(key, text)
    except keys.NotJsonError as error:
        into.mistakes.append(Mistake(place.text, str(error), keys.show(key)))
        return
    if _is_deep(value):
        into.mistakes.append(Mistake(place.text, "is nested too deeply", keys.show(key)))
    else:
        into.givens.append(Given(key, value, place))


def each_name(plains: Iterable[Plain]) -> Iterator[Plain]:
    """The strongest of each plain variable."""
    strongest: dict[str, Plain] = {}
    for plain in plains:
        there = strongest.get(plain.name)
        if there is None or there.place.rung < plain.place.rung:
            strongest[plain.name] = plain
    yield from strongest.values()
