"""How every command loads its settings."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from exporter import config

if TYPE_CHECKING:
    import argparse

    from exporter.config import Loaded


def load_settings(options: argparse.Namespace, *, targets_required: bool = False) -> Loaded:
    """The settings from all sources. Raises `ConfigError` with all errors."""
    loaded = config.load_from(options, os.environ, targets_required=targets_required)
    for note in loaded.ignored:
        print(f"note: {note}", file=sys.stderr)
    return loaded
