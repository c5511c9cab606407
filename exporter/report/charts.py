"""Writes charts. matplotlib is an optional extra, so it is imported only for a chart."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from exporter.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

    from exporter.model.explained import ExplainedRecording
    from exporter.model.session import SessionResult
    from exporter.report.comparison.facts import Comparison
    from exporter.report.drawing import PictureFormat

_FORMATS = (".png", ".svg")


class ExtraMissingError(ConfigError):
    """A chart needs matplotlib, which is not installed. The text says how to install it."""


def picture_format(file: str) -> PictureFormat:
    """By the file's suffix. Raises `ConfigError` if it is not .png or .svg."""
    suffix = Path(file).suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigError(f"--chart {file}: the name must end in .png or .svg")
    return cast("PictureFormat", suffix[1:])


def is_available() -> bool:
    """Whether matplotlib is installed. Does not load it."""
    return find_spec("matplotlib") is not None


def check_chart(file: str) -> None:
    """Checks before a session that its chart can be drawn and written afterwards."""
    picture_format(file)
    folder = Path(file).expanduser().parent
    if not folder.is_dir():
        raise ConfigError(f"--chart {file}: the folder {folder} does not exist")
    _load()


def write_session_chart(file: str, result: SessionResult, *, interrupted: bool = False) -> None:
    """Draw a session into `file`. Raises `ConfigError` if that is not possible."""
    _write(file, session_picture(result, picture_format(file), interrupted=interrupted))


def write_comparison_chart(file: str, comparison: Comparison) -> None:
    """Draw a comparison into `file`. Raises `ConfigError` if that is not possible."""
    _load()
    from exporter.report.comparison.chart import draw  # noqa: PLC0415 - loads matplotlib

    _write(file, draw(comparison, picture_format(file)))


def write_requests_chart(file: str, found: ExplainedRecording) -> None:
    """Draw the requests of a recording into `file`. Raises `ConfigError`."""
    _load()
    from exporter.report.requests.chart import draw  # noqa: PLC0415 - loads matplotlib

    _write(file, draw(found, picture_format(file)))


def session_picture(
    result: SessionResult, form: PictureFormat = "png", *, interrupted: bool = False
) -> bytes:
    """The four-panel chart. Not thread-safe."""
    _load()
    from exporter.report.session.chart import draw  # noqa: PLC0415 - loads matplotlib

    return draw(result, form, interrupted=interrupted)


def _load() -> ModuleType:
    try:
        import matplotlib as loaded  # noqa: PLC0415, ICN001 - only for those who ask for a chart
    except ModuleNotFoundError as error:
        raise ExtraMissingError(
            f"a chart needs matplotlib, which is not installed: {_how_to_install()}"
        ) from error
    return loaded


def _how_to_install() -> str:
    """Without pip, as in the container image or an environment of pipx, its command would fail."""
    if find_spec("pip") is not None:
        return "pip install 'matplotlib>=3.9'"
    return (
        "pipx inject vllm-cache-exporter 'matplotlib>=3.9' if pipx installed this. The container "
        "image has no charts: run this command in a checkout or from a wheel with the extra report"
    )


def _write(file: str, content: bytes) -> None:
    try:
        Path(file).expanduser().write_bytes(content)
    except OSError as error:
        raise ConfigError(f"--chart {file}: {error.strerror}") from error
