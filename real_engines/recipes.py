"""The list of engines to measure, from a TOML file that belongs to whoever runs this.

    [[engines]]
    name = "vllm-0.24.0"        # the name of its record
    kind = "plain"              # the column of the table
    command = "vllm serve MODEL --port {port}"
    environment = { VLLM_CPU_KVCACHE_SPACE = "1" }
    start_seconds = 600         # how long it may take until /health answers
    model = "adapter"           # if the first model that it serves is not the one to measure
    note = "why something is not known here"

With `url` in place of `command` the engine runs already.
"""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_START_SECONDS = 900.0


class RecipeError(ValueError):
    """The file of engines has a mistake."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One engine: a URL, or a command that serves it at `{port}`."""

    name: str
    kind: str
    url: str | None = None
    command: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    start_seconds: float = _START_SECONDS
    model: str | None = None
    note: str | None = None

    def words(self, port: int) -> list[str]:
        """The command line, with the port."""
        return [word.replace("{port}", str(port)) for word in shlex.split(self.command or "")]


def read(file: Path) -> list[Recipe]:
    """The recipes of a file. Raises `RecipeError`."""
    tables: Sequence[Any] = tomllib.loads(file.read_text("utf-8")).get("engines", ())
    recipes = [_recipe(table) for table in tables]
    names = [one.name for one in recipes]
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"{file} needs [[engines]], each with a name of its own")
    return recipes


def _recipe(table: Mapping[str, Any]) -> Recipe:
    try:
        recipe = Recipe(**table)
    except TypeError as error:
        raise RecipeError(f"an engine of the file: {error}") from error
    if (recipe.url is None) == (recipe.command is None):
        raise RecipeError(f"{recipe.name}: give a url or a command")
    return recipe
