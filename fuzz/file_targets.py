"""Fuzz targets for files of users: scenarios, and configuration in TOML, YAML and the environment.

Each target takes any bytes and raises AssertionError if they are read wrongly. A secret that no
input can contain by chance is added; it must not appear in any output.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import exporter.web.access.strict_yaml  # noqa: F401 - imported here, so that PyYAML is instrumented
from exporter.config import Loaded, describe, describe_json, load
from exporter.errors import ConfigError, ScenarioError
from exporter.scenario.file import parse_json, parse_lines
from exporter.web.access.configuration import read_web_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.scenario.model import ScenarioKind

T = TypeVar("T")
MOST_SAID, LONGEST_LINE = 100_000, 1200  # characters of all mistakes, and of one
CANARY = f"q{secrets.token_hex(12)}"
HASH = "$2b$04$ZALv2K4mS6uDYSlWxaGYFu5ZA2FI2TOK5tonl0tLFgxr1DCDe4m/G"
_SEPARATOR = b"\n%%\n"  # between a file and the environment
_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))


def scenario(data: bytes) -> None:
    """Both formats; an accepted scenario can be written and read again."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return  # scenario_library says so, before it parses
    for parse, name in ((parse_json, "f.json"), (parse_lines, "f.jsonl")):
        kind = _scenario(parse, text, name)
        if kind is None:
            continue
        played = kind.build(0)
        assert len(played.steps) > 1
        assert all(played.steps), "a turn that asks nothing"
        assert played == kind.build(7)
        whole = {
            "name": played.name,
            "tools": played.tools,
            "replay": "recorded" if played.recorded else "own",
            "messages": _written(played.steps, recorded=played.recorded),
        }
        again = parse_json(json.dumps(whole), "f.json", "x").build(0)
        assert again == played, "read otherwise when it was written down"
        head, messages = {k: v for k, v in whole.items() if k != "messages"}, whole["messages"]
        lines = "\n".join(json.dumps(each) for each in (head, *messages))
        assert parse_lines(lines, "f.jsonl", "x").build(0) == played, "lines are read otherwise"


def _written(steps: tuple[tuple[dict[str, object], ...], ...], *, recorded: bool) -> list[object]:
    """The messages of a scenario, with an answer between its turns where none is recorded."""
    messages: list[object] = []
    for step in steps:
        if messages and not recorded:
            messages.append({"role": "assistant", "content": "."})
        messages += step
    return messages


def _scenario(
    parse: Callable[[str, str, str], ScenarioKind], text: str, name: str
) -> ScenarioKind | None:
    kind, said = _outcome(lambda: parse(text, name, "fuzz"))
    again, said_again = _outcome(lambda: parse(text, name, "fuzz"))
    assert said == said_again, "refused otherwise the second time"
    if kind is None or again is None:
        assert said.startswith(name)
        _check_length(said)
        return None
    assert again.build(0) == kind.build(0)
    return kind


def _outcome(read: Callable[[], T]) -> tuple[T | None, str]:
    """The result, or the error text of a refusal; any other exception is a finding."""
    try:
        return read(), ""
    except (ConfigError, ScenarioError) as error:
        return None, str(error)


def toml(data: bytes) -> None:
    """A configuration file, beside a key in its first lines, and variables that are stronger."""
    file = _FOLDER / "fuzz.toml"
    head = f'[[targets]]\nurl = "http://e:8000"\napi_key = "{CANARY}"\n' if data[:1] == b"+" else ""
    file.write_bytes(head.encode() + data.removeprefix(b"+"))
    environ = {"VLLM_EXPORTER_PROBE__MAX_TOKENS": "7", "HF_TOKEN": CANARY}
    loaded = _loaded(file, environ)
    if loaded is not None:
        assert loaded.settings.probe.max_tokens == 7, "the file was stronger than a variable"  # noqa: PLR2004
        if head:
            key = loaded.settings.targets[0].api_key
            assert key is not None
            assert key.get_secret_value() == CANARY


def environment(data: bytes) -> None:
    """Lines NAME=value, each name with the exporter's prefix unless it begins with a colon."""
    environ = {"VLLM_EXPORTER_TARGETS__0__API_KEY": CANARY, "HF_TOKEN": CANARY}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        name, _, value = line.partition("=")
        name = name[1:] if name.startswith(":") else f"VLLM_EXPORTER_{name}"
        if "\0" not in line and "CONFIG" not in name.upper() and "DIR" not in name.upper():
            environ.setdefault(name, value)
    _loaded(None, environ)


def _loaded(file: Path | None, environ: dict[str, str]) -> Loaded | None:
    def read() -> Loaded:
        return load(config_file=file, environ=environ, dotenv=None)

    (loaded, said), (again, said_again) = _outcome(read), _outcome(read)
    assert said == said_again, "refused otherwise the second time"
    if loaded is None or again is None:
        _check_said(said)
        return None
    assert again.settings == loaded.settings, "read otherwise the second time"
    for shown in (describe(loaded), describe_json(loaded), repr(loaded), str(loaded.ignored)):
        assert CANARY not in shown, "a secret is shown"
    json.loads(describe_json(loaded))
    return loaded


def web_config(data: bytes) -> None:
    """The YAML of TLS and passwords, after users of whom one has a password for a hash."""
    file = _FOLDER / "web.yml"
    secret = {b"+": HASH, b"-": CANARY}.get(data[:1])
    head = f"basic_auth_users:\n  alice: {secret}\n" if secret else ""
    file.write_bytes(head.encode() + (data[1:] if secret else data))
    (config, said), (again, said_again) = (_outcome(lambda: read_web_config(file)) for _ in "ab")
    assert said == said_again, "refused otherwise the second time"
    if config is None or again is None:
        _check_said(said)
        assert HASH not in said
        return
    assert secret != CANARY, "a password was taken for a hash"
    assert HASH not in repr(config)
    assert again.users == config.users
    if secret == HASH:
        assert config.users[b"alice"] == HASH.encode(), "a user that was written is not asked for"


def _check_said(said: str) -> None:
    assert said.startswith("The configuration has ")
    assert CANARY not in said, "a secret is in an error"
    _check_length(said)


def _check_length(said: str) -> None:
    """Check that a person can read the text, for any input."""
    assert len(said) <= MOST_SAID, f"{len(said)} characters are said"
    longest = max(map(len, said.splitlines()))
    assert longest <= LONGEST_LINE, f"a mistake has {longest} characters"
