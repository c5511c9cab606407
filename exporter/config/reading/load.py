"""Loads the configuration: reads all sources, merges and checks them, reports all mistakes."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from exporter.config.reading.instance import default_instance
from exporter.config.reading.merge import Merged, merge, secret_of
from exporter.config.reading.mistakes import config_error, mistakes_of, shown
from exporter.config.reading.origin import GivenValue, Mistake, Origin
from exporter.config.reading.plain import fill_in
from exporter.config.reading.sources import (
    CONFIG_VARIABLE,
    DEFAULT_SECRETS_DIR,
    SECRETS_DIR_VARIABLE,
    SourceValues,
    read_command_line,
    read_dotenv,
    read_environment,
    read_secret,
    read_secrets,
    read_toml,
)
from exporter.config.schema import keys
from exporter.config.schema.discovery import SOURCE_KINDS
from exporter.config.schema.settings import Settings

_NO_TARGETS = Mistake(
    "", "at least one is required: set [[targets]] in a file, or VLLM_HOST", "targets"
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and where they come from.

    `sources` maps each set key (`probe.interval_seconds`, `targets[0].url`) to its source in words;
    all other keys have their defaults. `secret_keys` have values from the secrets directory.
    `ignored` has a message for each variable without effect.
    """

    settings: Settings
    sources: Mapping[str, str]
    secret_keys: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()


def load(
    *,
    config_file: Path | None = None,
    cli: Mapping[str, str] | None = None,
    environ: Mapping[str, str],
    dotenv: Path | None = Path(".env"),
    secrets_dir: Path | None = None,
    targets_required: bool = False,
) -> Loaded:
    """Read all sources in order of rising priority: file, .env, environment, secrets, `cli`.

    `config_file` and `secrets_dir` default to the variables VLLM_EXPORTER_CONFIG and
    VLLM_EXPORTER_SECRETS_DIR, and `secrets_dir` then to /run/secrets if it exists. `cli` maps keys
    to text. Raises ConfigError with every mistake.
    """
    if config_file is None and environ.get(CONFIG_VARIABLE):
        config_file = Path(environ[CONFIG_VARIABLE])
    found = _read(config_file, cli or {}, environ, dotenv, secrets_dir)
    if not found.readable:  # checking the rest would report false mistakes
        raise config_error(found.mistakes)
    merged = merge(found.givens)
    ignored = fill_in(found.plains, merged)
    _read_secret_files(merged)
    _check_authorities(merged)
    mistakes = [*found.mistakes, *merged.mistakes]
    settings = _validated(merged, mistakes)
    if targets_required and not _has_targets(merged):
        mistakes.append(_NO_TARGETS)
    if mistakes or settings is None:
        raise config_error(mistakes)
    if settings.instance is None:
        settings = settings.model_copy(update={"instance": default_instance(config_file)})
    return Loaded(
        settings=settings,
        sources={keys.show(key): origin.text for key, origin in merged.origins.items()},
        secret_keys=frozenset(keys.show(k) for k, p in merged.origins.items() if p.is_secret),
        ignored=ignored,
    )


def _read(
    config_file: Path | None,
    cli: Mapping[str, str],
    environ: Mapping[str, str],
    dotenv: Path | None,
    secrets_dir: Path | None,
) -> SourceValues:
    found = SourceValues()
    if secrets_dir is None and environ.get(SECRETS_DIR_VARIABLE):
        secrets_dir = Path(environ[SECRETS_DIR_VARIABLE])
    if secrets_dir is None and DEFAULT_SECRETS_DIR.is_dir():
        secrets_dir = DEFAULT_SECRETS_DIR
    if config_file is not None:
        read_toml(config_file.expanduser(), found)
    if dotenv is not None:
        read_dotenv(dotenv, found)
    read_environment(environ, found)
    if secrets_dir is not None:
        read_secrets(secrets_dir.expanduser(), found)
    read_command_line(cli, found)
    return found


def _has_targets(merged: Merged) -> bool:
    """Whether any target or discovery source is set."""
    origins = [("targets",), *(("discovery", kind) for kind in SOURCE_KINDS)]
    return any(merged.get(origin) for origin in origins)


def _validated(merged: Merged, mistakes: list[Mistake]) -> Settings | None:
    try:
        return Settings(**merged.tree)
    except ValidationError as error:
        mistakes += mistakes_of(error, merged)
        return None


def _read_secret_files(merged: Merged) -> None:
    """Read the secrets from the files that `api_key_file` and its kind name."""
    for key in list(merged.origins):
        secret = secret_of(key)
        if secret is not None and secret not in merged.origins:
            _read_secret_file(key, secret, merged)


def _read_secret_file(key: keys.Key, secret: keys.Key, merged: Merged) -> None:
    value, origin = merged.get(key), merged.origins[key]
    if not isinstance(value, str) or not value:
        return  # validation reports it
    text = read_secret(Path(value).expanduser())
    if isinstance(text, Mistake):
        merged.mistakes.append(
            Mistake(origin.text, text.message, keys.show(key), shown(key, value))
        )
    else:
        source = Origin(f"the file that {keys.show(key)} names ({origin.text})", origin.priority)
        merged.put(GivenValue(secret, text, source))


def _check_authorities(merged: Merged) -> None:
    """Check certificate files now: a wrong one would only fail at the first request."""
    for key, origin in list(merged.origins.items()):
        value = merged.get(key)
        if key[-1] == "ca_file" and isinstance(value, str) and value:
            wrong = _wrong_with_authority(Path(value).expanduser())
            if wrong is not None:
                merged.mistakes.append(
                    Mistake(origin.text, wrong, keys.show(key), shown(key, value))
                )


def _wrong_with_authority(file: Path) -> str | None:
    try:
        ssl.create_default_context(cafile=str(file))
    except ssl.SSLError:
        return "must be a file of certificates in PEM"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None
