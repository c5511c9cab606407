"""What the build adds to the package: the revision of the sources, and the project's addresses.

Hatchling runs it (pyproject.toml). The revision is that of git, or EXPORTER_REVISION where the
sources have no git, as in a container. The addresses are those of git's remote `origin`. What is
not known is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

REVISION_FILE = "exporter/revision.txt"
# https://USER:TOKEN@HOST/PATH, ssh://git@HOST/PATH and git@HOST:PATH; never a path of this machine.
REMOTE = re.compile(r"(?:(?:https|ssh)://(?:[^@/]+@)?|[\w.-]+@)([\w.-]+\.\w+)[:/](.+?)(?:\.git)?/?")


class RevisionHook(BuildHookInterface[Any]):
    """Puts the revision into wheel and sdist. An editable install has none: its sources change."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        known = None if (root / REVISION_FILE).exists() else revision(root)  # an sdist has the file
        if version == "editable" or known is None:
            return
        self._folder = TemporaryDirectory()  # removed with the hook
        written = Path(self._folder.name) / "revision.txt"
        written.write_text(f"{known}\n", encoding="utf-8")
        build_data["force_include"][str(written)] = REVISION_FILE


class AddressHook(MetadataHookInterface):
    """Puts the project's addresses into the metadata."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        metadata["urls"] = addresses(_git(Path(self.root), "remote", "get-url", "origin"))


def revision(root: Path) -> str | None:
    """The commit in 12 digits, with `-dirty` if a tracked file differs from it."""
    given = os.environ.get("EXPORTER_REVISION", "").strip()
    return given or _git(root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def addresses(origin: str | None) -> dict[str, str]:
    """The project's pages on the server of that remote, by their title."""
    found = REMOTE.fullmatch(origin or "")
    if found is None:
        return {}
    home = f"https://{found[1]}/{found[2]}"
    pages = {"Documentation": "docs/README.md", "Changelog": "CHANGELOG.md"}
    return {"Source": home} | {name: f"{home}/blob/HEAD/{path}" for name, path in pages.items()}


def _git(root: Path, *words: str) -> str | None:
    """What git prints. None without git, or where `root` is only a folder within a repository."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
