"""The origin of each value, and mistakes in values."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from exporter.config.schema.keys import Key

_LONGEST = 200  # characters of a key or a value in a mistake


class Priority(IntEnum):
    """The priority of a source: the higher one wins.

    Within one source a plain variable (`HF_TOKEN`) has a lower priority than a prefixed one.
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
class Origin:
    """A source in words, such as "environment variable PORT"."""

    text: str
    priority: Priority

    @property
    def is_secret(self) -> bool:
        """Everything in the secrets directory is treated as a secret."""
        return self.priority in (Priority.SECRETS, Priority.SECRETS_PLAIN)


DEFAULT = Origin("default", Priority.DEFAULT)


@dataclass(frozen=True, slots=True)
class GivenValue:
    """The value of a key in one source. It can be a whole table or list."""

    key: Key
    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong and what is allowed. `value` contains no secret; None shows no value."""

    origin: str
    message: str
    key: str | None = None
    value: str | None = None

    def __str__(self) -> str:
        subjects = [part for part in (self.origin, _cut(self.key or "")) if part]
        if self.value is not None:
            subjects[-1] = f"{subjects[-1]} = {_cut(self.value)}"
        return ": ".join([*subjects, self.message])


def _cut(text: str) -> str:
    """Cut a key or value that fills the whole file."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
