"""Where values come from, and the mistakes in them."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from exporter.config.schema.keys import Key

_LONGEST = 200  # characters of a key or a value in a mistake


class Rung(IntEnum):
    """How strong a source is: the higher one wins.

    Within one source a plain variable (`HF_TOKEN`) is weaker than a prefixed one.
    """

    DEFAULT = 0
    FILE = 1
    DOTENV_PLAIN = 2
    DOTENV = 3
    ENVIRONMENT_PLAIN = 4
    ENVIRONMENT = 5
    SECRETS_PLAIN = 6
    SECRETS = 7
    COMMAND_LINE = 8


@dataclass(frozen=True, slots=True)
class Place:
    """A source in words, as "environment variable PORT"."""

    text: str
    rung: Rung

    @property
    def is_secret(self) -> bool:
        """Whatever lies in the secrets directory is treated as a secret."""
        return self.rung in (Rung.SECRETS, Rung.SECRETS_PLAIN)


DEFAULT = Place("default", Rung.DEFAULT)


@dataclass(frozen=True, slots=True)
class Given:
    """A value that a source gives to a key, a whole table or list included."""

    key: Key
    value: Any
    place: Place


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong, and what is allowed. `value` is fit to be shown; None shows none."""

    place: str
    message: str
    key: str | None = None
    value: str | None = None

    def __str__(self) -> str:
        subjects = [part for part in (self.place, _cut(self.key or "")) if part]
        if self.value is not None:
            subjects[-1] = f"{subjects[-1]} = {_cut(self.value)}"
        return ": ".join([*subjects, self.message])


def _cut(text: str) -> str:
    """Nobody reads more, and a key or a number can fill the whole file."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
