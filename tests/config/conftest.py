"""Loads a configuration from text, independent of the machine's own variables."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from exporter.config import Loaded, load
from exporter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class LoadText(Protocol):
    def __call__(
        self,
        toml: str | None = None,
        *,
        dotenv: str | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        cli: Mapping[str, str] | None = None,
        targets_required: bool = False,
    ) -> Loaded: ...


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short name, because messages cut values at 80 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def load_text(tmp_path: Path) -> LoadText:
    """Load with the given texts as exporter.toml, .env, environment, secrets/ and command line."""

    def run(
        toml=None, *, dotenv=None, env=None, secrets=None, cli=None, targets_required=False
    ) -> Loaded:
        config_file = tmp_path / "exporter.toml"
        if toml is not None:
            config_file.write_text(toml, encoding="utf-8")
        if dotenv is not None:
            (tmp_path / ".env").write_text(dotenv, encoding="utf-8")
        folder = tmp_path / "secrets"
        folder.mkdir(exist_ok=True)
        for name, text in (secrets or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        return load(
            config_file=None if toml is None else config_file,
            cli=cli,
            environ=env or {},
            dotenv=tmp_path / ".env",
            secrets_dir=folder,
            targets_required=targets_required,
        )

    return run


@pytest.fixture
def mistakes_of(load_text: LoadText, tmp_path: Path):
    """The lines of the error for a configuration, without the folder's name."""

    def run(*args, **kwargs) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_text(*args, **kwargs)
        lines = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
        return [line.strip() for line in lines[1:]]

    return run
