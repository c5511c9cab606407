"""Reads a recording, and explains it without an engine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.analysis.requests.estimated import Estimator
from exporter.analysis.requests.explaining import Explanation
from exporter.analysis.requests.traces import Trace
from exporter.analysis.reuse.learning import Learned
from exporter.analysis.reuse.rule import Rule
from exporter.errors import ConfigError, RecordingError
from exporter.model.explained import ExplainedRecording
from exporter.model.recorded import Api
from exporter.probe.recorded.rendering import traced
from exporter.recording.reading import Recording, read_recording

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNIT = 16
"""Tokens of a block without an engine: vLLM's default on GPUs."""


def read(files: Sequence[str]) -> Recording:
    """The recording in files, or with "-" on standard input. Raises `ConfigError`."""
    if len(files) == 1:
        return _read(files[0])
    whole = Recording(", ".join(files))
    for one in map(_read, files):
        whole.requests += (
            replace(request, place=f"{one.source}, {request.place}") for request in one.requests
        )
        whole.skipped += (
            replace(each, place=f"{one.source}, {each.place}") for each in one.skipped
        )
    return whole


def _read(file: str) -> Recording:
    source = "standard input" if file == "-" else file
    try:
        if file == "-":
            return read_recording(sys.stdin.buffer, source)
        with Path(file).expanduser().open("rb") as lines:
            return read_recording(lines, source)
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    except RecordingError as error:
        raise ConfigError(str(error)) from error


def estimated(recording: Recording, *, with_trace: bool = False) -> ExplainedRecording:
    """What the requests could reuse, in estimated tokens."""
    trace = Trace(_UNIT) if with_trace else None
    estimator, explanation = Estimator(), Explanation(Learned(Rule(_UNIT)), trace)
    for request in recording.requests:
        is_traced = request.api is Api.COMPLETIONS
        tokens = traced(request) if is_traced else estimator.tokenized(request)
        # Only an engine knows what its template makes of template arguments.
        explanation.add(replace(request, settings=()), tokens)
    return ExplainedRecording(
        source=recording.source,
        requests=explanation.requests,
        skipped=recording.skipped,
        unit_tokens=_UNIT,
        trace=None if trace is None else trace.lines,
    )
