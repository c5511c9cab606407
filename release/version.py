"""The version of the next release."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def version() -> str:
    """The version, from the one place where it is written."""
    text = (ROOT / "exporter/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise SystemExit("exporter/__init__.py has no __version__")
    return found[1]
