"""Configuration: the settings, where their values come from, and what is wrong with them.

Everything outside this package imports from here.
"""

from exporter.config.arguments import add_arguments, collected, load_from
from exporter.config.container import BackoffSettings, ContainerSettings, LaunchSettings
from exporter.config.describe import describe, describe_json
from exporter.config.load import Loaded, load
from exporter.config.settings import (
    HistorySettings,
    LogSettings,
    Mode,
    ProbeSettings,
    ScrapeSettings,
    Settings,
    ShutdownSettings,
    Target,
)
from exporter.config.values import ListenAddress

__all__ = [
    "BackoffSettings",
    "ContainerSettings",
    "HistorySettings",
    "LaunchSettings",
    "ListenAddress",
    "Loaded",
    "LogSettings",
    "Mode",
    "ProbeSettings",
    "ScrapeSettings",
    "Settings",
    "ShutdownSettings",
    "Target",
    "add_arguments",
    "collected",
    "describe",
    "describe_json",
    "load",
    "load_from",
]
