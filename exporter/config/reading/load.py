"""Load the configuration: read every source, put it together, check it, say all that is wrong."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from exporter.config.reading.instance import default_instance
from exporter.config.reading.merge import RIVALS, Merged, merge
from exporter.config.reading.mistakes import config_error, mistakes_of, shown
from exporter.config.reading.origin import Given, Mistake, Place
from exporter.config.reading.plain import fill_in
from exporter.config.reading.sources import (
    CONFIG_VARIABLE,
    DEFAULT_SECRETS_DIR,
    SECRETS_DIR_VARIABLE,
    Reading,
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


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in force, and from where.

    `sources` gives for each key that was set (`probe.interval_seconds`, `targets[0].url`) its
    source in words; a key that is not in it has its default. `secret_keys` are those whose value
    came from the secrets directory. `ignored` tells of variables without effect.
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
    """Read all sources, the later ones stronger: file, .env, environment, secrets, `cli`.

    `config_file` and `secrets_dir` default to the variables VLLM_EXPORTER_CONFIG and
    VLLM_EXPORTER_SECRETS_DIR, the latter then to /run/secrets if that is there. `cli` maps keys
    to text. ConfigError names every mistake, not only the first.
    """
    if config_file is None and environ.get(CONFIG_VARIABLE):
        config_file = Path(environ[CONFIG_VARIABLE])
    reading = _read(config_file, cli or {}, environ, dotenv, secrets_dir)
    if not reading.readable:  # judging the rest would find mistakes that are none
        raise config_error(reading.mistakes)
    merged = merge(reading.givens)
    ignored = fill_in(reading.plains, merged)
    _read_secret_files(merged)
    _check_authorities(merged)
    mistakes = [*reading.mistakes, *merged.mistakes]
    settings = _validated(merged, mistakes)
    if targets_required and not _has_targets(merged):
        mistakes.append(
            Mistake(
                "", "at least one is required: set [[targets]] in a file, or VLLM_HOST", "targets"
            )
        )
    if mistakes or settings is None:
        raise config_error(mistakes)
    if settings.instance is None:
        settings = settings.model_copy(update={"instance": default_instance(config_file)})
    return Loaded(
        settings=settings,
        sources={keys.show(key): place.text for key, place in merged.places.items()},
        secret_keys=frozenset(keys.show(k) for k, p in merged.places.items() if p.is_secret),
        ignored=ignored,
    )


def _read(
    config_file: Path | None,
    cli: Mapping[str, str],
    environ: Mapping[str, str],
    dotenv: Path | None,
    secrets_dir: Path | None,
) -> Reading:
    reading = Reading()
    if secrets_dir is None and environ.get(SECRETS_DIR_VARIABLE):
        secrets_dir = Path(environ[SECRETS_DIR_VARIABLE])
    if secrets_dir is None and DEFAULT_SECRETS_DIR.is_dir():
        secrets_dir = DEFAULT_SECRETS_DIR
    if config_file is not None:
        read_toml(config_file.expanduser(), reading)
    if dotenv is not None:
        read_dotenv(dotenv, reading)
    read_environment(environ, reading)
    if secrets_dir is not None:
        read_secrets(secrets_dir.expanduser(), reading)
    read_command_line(cli, reading)
    return reading


def _has_targets(merged: Merged) -> bool:
    """Whether some are listed, or looked for."""
    places = [("targets",), *(("discovery", kind) for kind in SOURCE_KINDS)]
    return any(merged.get(place) for place in places)


def _validated(merged: Merged, mistakes: list[Mistake]) -> Settings | None:
    try:
        return Settings(**merged.tree)
    except ValidationError as error:
        mistakes += mistakes_of(error, merged)
        return None


def _read_secret_files(merged: Merged) -> None:
    """Take the secrets out of the files that `api_key_file` and `hf_token_file` name."""
    for key in list(merged.places):
        for secret, file in RIVALS:
            if key[-1] == file and (*key[:-1], secret) not in merged.places:
                _read_secret_file(key, (*key[:-1], secret), merged)


def _read_secret_file(key: keys.Key, secret: keys.Key, merged: Merged) -> None:
    value, place = merged.get(key), merged.places[key]
    if not isinstance(value, str) or not value:
        return  # the settings will refuse it
    text = read_secret(Path(value).expanduser())
    if isinstance(text, Mistake):
        merged.mistakes.append(Mistake(place.text, text.message, keys.show(key), shown(key, value)))
    else:
        source = Place(f"the file that {keys.show(key)} names ({place.text})", place.rung)
        merged.put(Given(secret, text, source))


def _check_authorities(merged: Merged) -> None:
    """A file that holds no certificate would show itself only at the first request."""
    for key, place in list(merged.places.items()):
        value = merged.get(key)
        if key[-1] == "ca_file" and isinstance(value, str) and value:
            wrong = _wrong_with_authority(Path(value).expanduser())
            if wrong is not None:
                merged.mistakes.append(
                    Mistake(place.text, wrong, keys.show(key), shown(key, value))
                )


def _wrong_with_authority(file: Path) -> str | None:
    try:
        ssl.create_default_context(cafile=str(file))
    except ssl.SSLError:
        return "must be a file of certificates in PEM"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None
