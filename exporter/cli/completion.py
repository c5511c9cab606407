"""`completion`: a script for bash, zsh or fish that completes commands, options and files."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from exporter.cli.main import COMMANDS, build_parser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from exporter.cli.parsing.parser import Parser

USAGE = "bash|zsh|fish"
EXAMPLES = (
    "completion bash > ~/.local/share/bash-completion/completions/vllm-cache-exporter",
    "completion fish > ~/.config/fish/completions/vllm-cache-exporter.fish",
)
PROGRAM = "vllm-cache-exporter"
_Options = dict[str, list[argparse.Action]]
_LONGEST_HELP = 60


def add_arguments(parser: Parser) -> None:
    parser.add_argument("shell", choices=list(_SCRIPTS), help="the shell")
    parser.epilog = (
        "zsh: write it into a file _vllm-cache-exporter of a folder in $fpath. For one terminal "
        f"only: source <({PROGRAM} completion bash)"
    )


def main(options: argparse.Namespace) -> int:
    found = {name: build_parser([name]).commands[name].in_full() for name in COMMANDS}
    print("\n".join(_SCRIPTS[options.shell](found)))
    return 0


def _bash(commands: _Options) -> Iterator[str]:
    yield "_vllm_cache_exporter() {"
    yield '    local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '    local words=""'
    yield "    COMPREPLY=()"
    yield "    if (( COMP_CWORD == 1 )); then"
    yield f'        words="{" ".join(commands)} --help --version"'
    yield "    elif [[ $current == -* ]]; then"
    yield '        case "${COMP_WORDS[1]}" in'
    for name, actions in commands.items():
        flags = " ".join(flag for action in actions for flag in action.option_strings)
        yield f'            {name}) words="{flags}" ;;'
    yield "        esac"
    yield "    else"
    yield '        case "${COMP_WORDS[1]} $before" in'
    for name, actions in commands.items():
        for action in (each for each in actions if each.choices):
            places = [f'"{name} {before}"' for before in action.option_strings or [name]]
            yield f'            {"|".join(places)}) words="{_choices(action)}" ;;'
    yield "        esac"
    yield "    fi"
    yield '    [[ -z $words ]] || COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "}"
    yield f"complete -o default -F _vllm_cache_exporter {PROGRAM}"


def _zsh(commands: _Options) -> Iterator[str]:
    yield f"#compdef {PROGRAM}"
    yield "_vllm_cache_exporter() {"
    yield "    if (( CURRENT == 2 )); then"
    listed = " ".join(f"{name}:{_quoted(COMMANDS[name], ':')}" for name in commands)
    yield f"        local -a commands=({listed})"
    yield "        _describe command commands"
    yield "        return"
    yield "    fi"
    yield "    local name=$words[2]"
    yield "    shift words"
    yield "    (( CURRENT-- ))"
    yield "    case $name in"
    for name, actions in commands.items():
        specs = [spec for action in actions for spec in _zsh_specs(action)]
        yield f"        {name}) _arguments {' '.join(specs)} '*:file:_files' ;;"
    yield "    esac"
    yield "}"
    # Read from a folder of $fpath, the file is the function itself; else it is sourced.
    yield f"if [[ $funcstack[1] == _{PROGRAM} ]]; then"
    yield '    _vllm_cache_exporter "$@"'
    yield "else"
    yield f"    compdef _vllm_cache_exporter {PROGRAM}"
    yield "fi"


def _zsh_specs(action: argparse.Action) -> Iterator[str]:
    value = ""
    if action.choices:
        value = f":value:({_choices(action)})"
    elif action.nargs != 0:
        value = ":value:_files"
    for flag in action.option_strings:
        text = re.sub(r"[\[\]]", "", _text(action))
        yield _quoted(f"{flag}[{text}]{value}")
    if not action.option_strings and action.choices:
        yield _quoted(f"1{value}")


def _fish(commands: _Options) -> Iterator[str]:
    start = f"complete -c {PROGRAM} -n __fish_use_subcommand -f"
    for name in commands:
        yield f"{start} -a {name} -d {_quoted(COMMANDS[name])}"
    for name, actions in commands.items():
        here = f"complete -c {PROGRAM} -n '__fish_seen_subcommand_from {name}'"
        for action in actions:
            flags = " ".join(
                f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                for flag in action.option_strings
            )
            choices = f" -f -a {_quoted(_choices(action))}" if action.choices else ""
            takes = " -r" if flags and action.nargs != 0 else ""
            if flags or choices:
                text = _quoted(_text(action))
                yield f"{here} {flags}{takes}{choices} -d {text}".replace("  ", " ")


def _choices(action: argparse.Action) -> str:
    return " ".join(action.choices or ())


def _text(action: argparse.Action) -> str:
    """The help of an option in short, on one line."""
    text = " ".join((action.help or "").replace("%%", "%").split())
    text = text.partition(" (default: %(")[0]
    return text if len(text) <= _LONGEST_HELP else f"{text[:_LONGEST_HELP].rsplit(' ', 1)[0]}…"


def _quoted(text: str, escaped: str = "") -> str:
    """In single quotes, as all three shells read them."""
    for character in escaped:
        text = text.replace(character, f"\\{character}")
    return "'" + text.replace("'", "'\\''") + "'"


_SCRIPTS: Mapping[str, Callable[[_Options], Iterator[str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
