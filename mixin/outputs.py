"""Every file that follows from the settings, except the dashboards."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mixin.templates import fill

if TYPE_CHECKING:
    from mixin.settings import Settings

ROOT: Final = Path(__file__).parents[1]
TEMPLATES: Final = ROOT / "deploy" / "mixin"
# Template folder, and the folder of what is written from it.
_FOLDERS: Final = {"rules": Path("deploy/prometheus/rules"), "docs": Path("docs")}
_KUBERNETES: Final = Path("deploy/kubernetes")


def outputs(settings: Settings) -> dict[Path, str]:
    """The text of each file, by its path in the repository."""
    filled = {
        target / template.relative_to(TEMPLATES / source): _filled(template, settings)
        for source, target in _FOLDERS.items()
        for template in sorted((TEMPLATES / source).rglob("*.*"))
    }
    for page in sorted((ROOT / "docs" / "runbooks").glob("*.md")):  # those without a threshold
        filled.setdefault(page.relative_to(ROOT), page.read_text(encoding="utf-8"))
    rules = {path.stem: text for path, text in filled.items() if path.parent == _FOLDERS["rules"]}
    script = runpy.run_path(str(ROOT / _KUBERNETES / "build.py"))
    for name, text in script["resources"](rules=rules).items():
        filled[_KUBERNETES / "rules" / name] = text
    return filled


def _filled(template: Path, settings: Settings) -> str:
    text = fill(template.read_text(encoding="utf-8"), settings)
    if template.suffix != ".yml":
        return text
    source = template.relative_to(ROOT).as_posix()
    return f"# Written by `make mixin` from {source}; do not edit.\n{text}"


def write(settings: Settings, folder: Path) -> None:
    for path, text in outputs(settings).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
