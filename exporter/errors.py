"""The program's own errors. Modules at the edge translate foreign errors into these."""

from __future__ import annotations


class ExporterError(Exception):
    """The base of all these errors. The text is for people."""


class ConfigError(ExporterError):
    """The configuration has mistakes; the text lists all of them. The command exits with 2."""


class EngineUnavailableError(ExporterError):
    """An engine's HTTP endpoint could not be read; `reason` is one of a fixed set of labels."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class ScenarioError(ExporterError):
    """A scenario cannot be played."""


class RecordingError(ExporterError):
    """A recording of requests cannot be read."""


class ExpositionError(ExporterError):
    """A page is not valid Prometheus text; the message names the line."""
