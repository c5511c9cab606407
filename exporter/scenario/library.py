"""Loads scenarios: built-in ones, from a file, or from a folder of files."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import ConfigError, ExporterError, ScenarioError
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.scenario.file import parse_json, parse_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.scenario.model import ScenarioKind

MOST_BYTES = 8 << 20
"""Far more than any context: a larger file is an error and is not read."""
FORMATS: Mapping[str, Callable[[str, str, str], ScenarioKind]] = {
    ".json": parse_json,
    ".jsonl": parse_lines,
}
"""Parsers by suffix. Each gets a file's text, its path for messages, and its name."""


def _recorded(name: str) -> ScenarioKind:
    text = files("exporter.scenario").joinpath("recorded", f"{name}.json").read_text("utf-8")
    return parse_json(text, f"{name}.json", name)


BUILT_IN: Mapping[str, Callable[[str], ScenarioKind]] = {
    CODING_AGENT.name: lambda _name: CODING_AGENT,
    "document-review": _recorded,  # in recorded/
    "tool-trace": _recorded,
}
"""The built-in scenarios by name."""

_SUFFIXES = " or ".join(FORMATS)


def load_scenarios(wanted: str) -> tuple[ScenarioKind, ...]:
    """The scenarios that `wanted` names, in the order of their sessions; at least one.

    `wanted` is a name of `BUILT_IN`, or the path of a .json or .jsonl file or of a folder with such
    files. Raises `ConfigError` with all errors.
    """
    if wanted in BUILT_IN:
        return (BUILT_IN[wanted](wanted),)
    path = Path(wanted).expanduser()
    try:
        within = _within(path)
    except OSError as error:
        raise ConfigError(
            f"probe.scenario: {wanted!r} cannot be read: {error.strerror}; the user that runs "
            "this program must have access to it"
        ) from error
    if within is None:
        if path.suffix not in FORMATS:
            known = ", ".join(BUILT_IN)
            raise ConfigError(
                f"probe.scenario: {wanted!r} is neither a built-in scenario ({known}) "
                f"nor a {_SUFFIXES} file nor a folder of these"
            )
        return _load([path])
    paths = [each for each in within if each.suffix in FORMATS]
    if not paths:
        raise ConfigError(f"probe.scenario: the folder {wanted} has no {_SUFFIXES} file")
    return _load(paths)


class NoSuchScenarioError(ExporterError):
    """The scenario is neither built in nor one that the target plays. The text names those."""


def scenario_named(name: str | None, played: Sequence[ScenarioKind]) -> ScenarioKind:
    """The scenario of that name among `played` and the built-in ones; without a name the first.

    A name is never a path. Raises `NoSuchScenarioError`.
    """
    if name is None:
        return played[0]
    found = next((kind for kind in played if kind.name == name), None)
    if found is not None:
        return found
    if name in BUILT_IN:
        return BUILT_IN[name](name)
    known = ", ".join(dict.fromkeys([*(kind.name for kind in played), *BUILT_IN]))
    raise NoSuchScenarioError(f"scenario: there is no scenario {name!r}; there are: {known}")


def fingerprint(wanted: str) -> str:
    """A digest of the files that `load_scenarios` reads; it changes when one of them does."""
    if wanted in BUILT_IN:
        return wanted
    path = Path(wanted).expanduser()
    try:
        paths = _within(path) or [path]
    except OSError:
        paths = [path]
    digest = hashlib.sha256()
    for each in paths:
        if each.suffix in FORMATS:
            digest.update(f"{each}\n".encode())
            try:
                digest.update(_read(each).encode())
            except ScenarioError as error:
                digest.update(str(error).encode())
    return digest.hexdigest()


def _within(path: Path) -> list[Path] | None:
    """The content of the folder, by name; None if it is not a folder. Raises `OSError`."""
    return sorted(path.iterdir()) if path.is_dir() else None


def _load(paths: list[Path]) -> tuple[ScenarioKind, ...]:
    kinds: dict[str, ScenarioKind] = {}
    sources: dict[str, Path] = {}
    errors = []
    for path in paths:
        try:
            kind = FORMATS[path.suffix](_read(path), str(path), path.stem)
        except ScenarioError as error:
            errors.append(str(error))
            continue
        if kind.name in kinds:
            errors.append(f"{path}: name: {kind.name!r} is also the name of {sources[kind.name]}")
        kinds[kind.name], sources[kind.name] = kind, path
    if errors:
        raise ConfigError("\n".join(errors))
    return tuple(kinds.values())


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise ScenarioError(f"{path}: is larger than {MOST_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: is not UTF-8 at byte {error.start}") from error
