"""Configuration: the settings, where their values come from, and what is wrong with them."""

from exporter.config.container import BackoffSettings, ContainerSettings, LaunchSettings
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
    "LogSettings",
    "Mode",
    "ProbeSettings",
    "ScrapeSettings",
    "Settings",
    "ShutdownSettings",
    "Target",
]
