"""`python -m real_engines FILE [NAME …]` measures the engines of a file, one after the other.

With `--faults` it only plays the faults, and adds them to the records that exist.

`python -m real_engines --page` writes docs/engines.md from the records again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from real_engines.faults import play_faults
from real_engines.measuring import measure
from real_engines.page import renewed
from real_engines.programs import EngineError, served
from real_engines.recipes import Recipe, RecipeError, read
from real_engines.record import as_text, faults_of, record_of

HERE = Path(__file__).parent
RECORDS = HERE / "records"
PAGE = HERE.parent / "docs" / "engines.md"


def main() -> int:
    options = _options()
    failed = 0
    for recipe in _chosen(options):
        print(f"{recipe.name}: {recipe.kind}", flush=True)
        failed += not (_keep_faults if options.faults else _keep_record)(recipe)
    write_page()
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m real_engines", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="the engines, as TOML")
    parser.add_argument("names", nargs="*", help="only these engines of the file")
    parser.add_argument(
        "--faults", action="store_true", help="only play the faults, for records that exist"
    )
    parser.add_argument("--page", action="store_true", help="only write the page again")
    options = parser.parse_args()
    if options.page == (options.file is not None):
        parser.error("give a file of engines, or --page")
    return options


def _chosen(options: argparse.Namespace) -> list[Recipe]:
    if options.page:
        return []
    try:
        recipes = read(options.file)
    except (OSError, RecipeError, ValueError) as error:
        sys.exit(f"{options.file}: {error}")
    unknown = set(options.names) - {recipe.name for recipe in recipes}
    if unknown:
        sys.exit(f"{options.file} has no engine {', '.join(sorted(unknown))}")
    return [one for one in recipes if not options.names or one.name in options.names]


def _keep_record(recipe: Recipe) -> bool:
    """Measure one engine. An engine that fails keeps its old record, and its log stays."""
    folder = Path(tempfile.mkdtemp(prefix=f"engine-{recipe.name}-"))
    try:
        with served(recipe, folder / "engine.log") as url:
            record = record_of(recipe, measure(url, folder, recipe.settings))
    except EngineError as error:
        print(f"  {error}", file=sys.stderr)
        return False
    RECORDS.mkdir(exist_ok=True)
    _file_of(recipe).write_text(as_text(record), "utf-8")
    return _keep_faults(recipe)


def _keep_faults(recipe: Recipe) -> bool:
    """Add the faults to a record that exists; True if the recipe says nothing of them."""
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{recipe.name}-"))
    try:
        if recipe.small_cache is not None:
            played = play_faults(recipe, recipe.small_cache, folder)
            found = faults_of(recipe.small_cache, played)
        elif recipe.no_faults is not None:
            found = {"reason": recipe.no_faults}
        else:
            return True
        record = json.loads(_file_of(recipe).read_text("utf-8"))
    except (EngineError, OSError) as error:
        print(f"  {error}", file=sys.stderr)
        return False
    _file_of(recipe).write_text(as_text(record | {"faults": found}), "utf-8")
    return True


def _file_of(recipe: Recipe) -> Path:
    return RECORDS / f"{recipe.name}.json"


def records() -> list[dict[str, Any]]:
    """All records that are kept."""
    return [json.loads(file.read_text("utf-8")) for file in sorted(RECORDS.glob("*.json"))]


def write_page() -> None:
    PAGE.write_text(renewed(PAGE.read_text("utf-8"), records()), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
