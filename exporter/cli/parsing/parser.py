"""The parser of every command: short help, one spelling of flags, and errors with a suggestion."""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from typing import TYPE_CHECKING, Any, NoReturn

from exporter import config

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from _typeshed import SupportsWrite


class Parser(argparse.ArgumentParser):
    """A parser whose `--help` fits on a screen. `--help-all` shows the rest too.

    A flag may be written with hyphens or underscores. `hidden_help` has the full help of the
    options that `--help` leaves out or shortens, `hidden_epilog` what only `--help-all` shows.
    `commands` are the parsers of the commands.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **options)
        self.hidden_help: dict[argparse.Action, str] = {}
        self.hidden_epilog = ""
        self.commands: dict[str, Parser] = {}

    def parse_known_args(  # type: ignore[override]  # argparse's own has overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Ends with an error if an argument is unknown, so the usage is that of its command."""
        words = list(sys.argv[1:] if args is None else args)
        options, unknown = super().parse_known_args(self._spelled(words), namespace)
        if unknown:
            self.error(f"unknown {_kind(unknown[0])} {unknown[0]}{self._near(unknown[0])}")
        return options, []

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\nTry: {self.prog} --help\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Unlike argparse's own, it does not hide that the output cannot be written."""
        print(message, end="", file=file or sys.stderr)

    def shorten(self, action: argparse.Action, text: str = argparse.SUPPRESS) -> None:
        """Let `--help` say only `text` about an option; by default it leaves the option out."""
        self.hidden_help[action] = action.help or ""
        action.help = text

    def in_full(self) -> list[argparse.Action]:
        """All arguments, each with its full help."""
        for action, text in self.hidden_help.items():
            action.help = text
        return list(self._actions)

    def print_all(self) -> None:
        """Print the help of all options."""
        self.in_full()
        self.epilog = "\n\n".join(filter(None, (self.epilog, self.hidden_epilog)))
        self.print_help()

    def _spelled(self, words: Sequence[str]) -> list[str]:
        """The words with each flag spelled as it is defined."""
        defined = {_hyphened(flag): flag for flag in self._option_string_actions}
        end = words.index("--") if "--" in words else len(words)
        return [_respelled(word, defined) for word in words[:end]] + list(words[end:])

    def _near(self, word: str) -> str:
        if not word.startswith("--"):
            return ""
        defined = {_hyphened(flag): flag for flag in self._option_string_actions}
        return suggestion(_hyphened(word.partition("=")[0]), defined, defined)


class HelpAll(argparse.Action):
    """`--help-all`."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        text = "show all options and settings, in full"
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=text)

    def __call__(self, parser: argparse.ArgumentParser, *_rest: object) -> None:
        if isinstance(parser, Parser):
            parser.print_all()
        parser.exit()


def add_settings(parser: Parser, *shown: str) -> None:
    """Add a flag for each setting. `--help` shows those in `shown`, `--help-all` all of them."""
    parser.hidden_help |= config.add_arguments(parser, shown)


def suggestion(word: str, known: Iterable[str], spelled: dict[str, str] | None = None) -> str:
    """A question to append to an error about an unknown word; "" without a similar one."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"; did you mean {(spelled or {}).get(near[0], near[0])}?" if near else ""


def _kind(word: str) -> str:
    return "option" if word.startswith("-") else "argument"


def _hyphened(flag: str) -> str:
    return flag.replace("_", "-")


def _respelled(word: str, defined: dict[str, str]) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return f"{defined.get(_hyphened(flag), flag)}{equals}{value}"


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps each line of a text, and keeps indented lines, such as examples, as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (
            [line] if line.startswith(" ") else textwrap.wrap(line, width) or [""]
            for line in text.splitlines()
        )
        return "\n".join(f"{indent}{part}" for wrapped in lines for part in wrapped)

    def _split_lines(self, text: str, width: int) -> list[str]:
        # A flag or a name stays in one piece.
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)
