"""The revision that this package was built from."""

from __future__ import annotations

import pkgutil
from functools import cache

from exporter import __version__


@cache
def revision() -> str | None:
    """The commit that the build wrote down (release/hatch_build.py). None in a checkout, whose
    sources change, and where the build did not know it.
    """
    try:
        written = pkgutil.get_data("exporter", "revision.txt")  # works in a zipapp, too
    except OSError:
        return None
    return None if written is None else written.decode().strip() or None


def version_and_revision() -> str:
    """For people: `0.1.0 (revision 1c43cae…)`, or `0.1.0` where the revision is unknown."""
    known = revision()
    return __version__ if known is None else f"{__version__} (revision {known})"
