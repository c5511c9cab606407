"""The errors raised on purpose; whatever goes wrong outside becomes one of these at a door."""

from __future__ import annotations


class ExporterError(Exception):
    """Anything that this program says of itself; its text is fit for a person to read."""


class ConfigError(ExporterError):
    """The configuration has mistakes, all of which the text names. The command exits with 2."""


class EngineUnavailableError(ExporterError):
    """An engine's HTTP endpoint could not be read; `reason` is a label of a closed set."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class ScenarioError(ExporterError):
    """A scenario cannot be played as it stands."""


class ExpositionError(ExporterError):
    """A page that should be Prometheus text is not; the text names the line."""
