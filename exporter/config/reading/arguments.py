"""The settings as command line flags, with the same names."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from exporter.config.reading.load import Loaded, load
from exporter.config.schema import keys

_DESTINATION = "settings"
# A flag name that all Prometheus exporters share.
_ALSO = {"web_config_file": ("--web.config.file",)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, `--env-file`, `--secrets-dir`, a flag for each setting, and `--set`."""
    files = parser.add_argument_group("configuration files")
    files.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    files.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        default=Path(".env"),
        help="a file of environment variables (default: .env in the working directory)",
    )
    files.add_argument(
        "--secrets-dir",
        type=Path,
        metavar="DIR",
        help="a directory of files named like the variables (default: /run/secrets if it exists)",
    )
    group = parser.add_argument_group(
        "settings", "as in the file; docs/configuration.md explains all of them"
    )
    for leaf in keys.leaves():
        if not any(isinstance(part, int) for part in leaf.key):
            _add_flag(group, leaf)
    group.add_argument(
        "--set",
        action="append",
        type=_assignment,
        dest=_DESTINATION,
        metavar="KEY=VALUE",
        help="any setting, such as targets[0].url=http://127.0.0.1:8000",
    )


def _add_flag(group: argparse._ArgumentGroup, leaf: keys.Leaf) -> None:
    key, is_list = keys.show(leaf.key), keys.is_list(keys.node_at(leaf.key))
    group.add_argument(
        f"--{key}",
        *_ALSO.get(key, ()),
        action="append",
        type=lambda text: (key, text),
        dest=_DESTINATION,
        metavar="JSON" if is_list else "VALUE",
        help=keys.description(leaf.field).replace("%", "%%"),
    )


def _assignment(text: str) -> tuple[str, str]:
    """The key and the value of `--set KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("must be KEY=VALUE")
    return key.strip(), value


def collected(namespace: argparse.Namespace) -> dict[str, str]:
    """The settings of the command line as a map of key to text, for `load`'s `cli`."""
    return dict(getattr(namespace, _DESTINATION, None) or ())


def load_from(
    namespace: argparse.Namespace, environ: Mapping[str, str], *, targets_required: bool = False
) -> Loaded:
    """Load with the arguments that `add_arguments` collected."""
    return load(
        config_file=namespace.config,
        cli=collected(namespace),
        environ=environ,
        dotenv=namespace.env_file,
        secrets_dir=namespace.secrets_dir,
        targets_required=targets_required,
    )
