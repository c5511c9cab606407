"""The list of engines to measure, from a TOML file that belongs to whoever runs this.

    [[engines]]
    name = "vllm-0.24.0"        # the name of its record
    kind = "plain"              # the column of the table
    command = "vllm serve MODEL --port {port}"
    environment = { VLLM_CPU_KVCACHE_SPACE = "1" }
    start_seconds = 600         # how long it may take until /health answers
    model = "adapter"           # if the first model that it serves is not the one to measure
    data_parallel_ranks = "pinned"   # the setting of this name of the exporter's target
    note = "why something is not known here"
    small_cache = { context_tokens = 1984, blocks = 64 }   # to play faults (faults.py)
    no_faults = "why faults cannot be shown here"          # or the reason

With `url` in place of `command` the engine runs already, and no faults are played. vLLM's own flags
are appended to a command whose faults are played.
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
class SmallCache:
    """A context in which sessions are short, and the blocks of a cache that holds one such prompt.

    Sliding and linear layers need more blocks for it than full attention does. `foreign_prompts` of
    another client evict a session: a sliding window can survive one.
    """

    context_tokens: int
    blocks: int
    foreign_prompts: int = 1

    @property
    def context_flags(self) -> list[str]:
        """The flags of vLLM for the context alone."""
        return ["--max-model-len", str(self.context_tokens)]

    @property
    def flags(self) -> list[str]:
        """The flags of vLLM for the context and the cache."""
        return [*self.context_flags, "--num-gpu-blocks-override", str(self.blocks)]

    @property
    def foreign_tokens(self) -> int:
        """The prompt of another client that leaves a session little room."""
        return self.context_tokens * 9 // 10


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
    data_parallel_ranks: str | None = None
    note: str | None = None
    small_cache: SmallCache | None = None
    no_faults: str | None = None

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the exporter's target."""
        given = {"model": self.model, "data_parallel_ranks": self.data_parallel_ranks}
        return {name: value for name, value in given.items() if value is not None}

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
        small = table.get("small_cache")
        recipe = Recipe(**dict(table) | {"small_cache": SmallCache(**small) if small else None})
    except TypeError as error:
        raise RecipeError(f"an engine of the file: {error}") from error
    if (recipe.url is None) == (recipe.command is None):
        raise RecipeError(f"{recipe.name}: give a url or a command")
    if recipe.small_cache is not None and (recipe.command is None or recipe.no_faults):
        raise RecipeError(f"{recipe.name}: faults need a command, and no reason to leave them out")
    return recipe
