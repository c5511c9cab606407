"""The settings as command line flags, with the same names."""

import argparse
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from exporter.config.reading.load import Loaded, load
from exporter.config.schema import keys

_DESTINATION = "settings"
_ALSO = {
    "probe.api": ("--api",),
    # The names that flags have in Prometheus's own exporters.
    "listen": ("--web.listen-address",),
    "web_config_file": ("--web.config.file",),
}


def add_arguments(
    parser: argparse.ArgumentParser, shown: Collection[str] | None = None
) -> dict[argparse.Action, str]:
    """Add `--config`, `--env-file`, `--secrets-dir`, a flag for each setting, and `--set`.

    The help has only the settings in `shown`, by their keys, and of each the first sentence; with
    None it has all flags in full. Returns the full help of each flag that is shortened or hidden.
    """
    group = parser.add_argument_group("settings")
    group.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    group.add_argument("--config.file", type=Path, dest="config", help=argparse.SUPPRESS)
    dotenv = group.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        default=Path(".env"),
        help="a file of environment variables (default: .env)",
    )
    secrets = group.add_argument(
        "--secrets-dir",
        type=Path,
        metavar="DIR",
        help="a folder of files named like the variables (default: /run/secrets)",
    )
    full = {each: each.help or "" for each in (dotenv, secrets)}
    for leaf in keys.leaves():
        if not any(isinstance(part, int) for part in leaf.key):
            action = _add_flag(group, leaf)
            full[action] = action.help or ""
            if shown is not None and keys.show(leaf.key) in shown:
                action.help = _short(leaf)
    group.add_argument(
        "--set",
        action="append",
        type=_assignment,
        dest=_DESTINATION,
        metavar="KEY=VALUE",
        help="any setting, such as targets[0].model=NAME",
    )
    if shown is None:
        return {}
    for action, text in full.items():
        if action.help == text:
            action.help = argparse.SUPPRESS
    return full


def _short(leaf: keys.Leaf) -> str:
    sentence = re.split(r"(?<=\w)[.:;] ", keys.description(leaf.field), maxsplit=1)[0]
    return _help(sentence.rstrip("."), leaf)


def _help(text: str, leaf: keys.Leaf) -> str:
    """The text with the default, for argparse."""
    value = keys.default_at(leaf.key)
    if value is None or value == ():
        return text.replace("%", "%%")
    shown = f"{value:g}" if isinstance(value, float) else json.dumps(value, default=str).strip('"')
    return f"{text} (default: {shown})".replace("%", "%%")


def _add_flag(group: argparse._ArgumentGroup, leaf: keys.Leaf) -> argparse.Action:
    key, is_list = keys.show(leaf.key), keys.is_list(keys.node_at(leaf.key))
    return group.add_argument(
        f"--{key}",
        *_ALSO.get(key, ()),
        action="append",
        type=lambda text: (key, text),
        dest=_DESTINATION,
        metavar="JSON" if is_list else "VALUE",
        help=_help(keys.description(leaf.field), leaf),
    )


def add_short_flags(parser: argparse.ArgumentParser, short: Mapping[str, tuple[str, str]]) -> None:
    """Add flags without a value: the words of each, and the key and the value that it sets."""
    for words, (key, value) in short.items():
        parser.add_argument(
            *words.split(),
            action="append_const",
            const=(key, value),
            dest=_DESTINATION,
            help=f"the same as --{key} {value}",
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
