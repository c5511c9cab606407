"""The progress of a start in vLLM's log: its phase, and how often it has read the weights.

The patterns are from `vllm serve` 0.32.0 and its source: v1/worker, v1/engine/core.py,
model_executor/model_loader, compilation/monitor.py. They also match the older wording ("Loading
model weights took" before 0.9, "Starting vLLM API server" before 0.32).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum


class LoadPhase(StrEnum):
    """The phases of a start, in the usual order."""

    CONFIGURING = "configuring"
    DOWNLOADING = "downloading"
    READING_WEIGHTS = "reading_weights"
    WEIGHTS_READ = "weights_read"
    COMPILING = "compiling"
    CAPTURING = "capturing"  # CUDA graphs
    ENGINE_READY = "engine_ready"
    SERVING = "serving"  # the HTTP server is up
    RELOADING = "reloading"  # the weights again, in place


# The first phase with a match is the phase of the line.
_SENTENCES: dict[LoadPhase, tuple[str, ...]] = {
    LoadPhase.RELOADING: (r"Reloading weights inplace",),
    LoadPhase.WEIGHTS_READ: (
        r"Loading weights took ",
        r"Model loading took ",
        r"Loading model weights took ",
        r"Reloading and processing weights took ",
    ),
    LoadPhase.READING_WEIGHTS: (
        r"Starting to load model ",
        r"Loading safetensors ",
        r"Loading pt checkpoint shards",
    ),
    LoadPhase.DOWNLOADING: (r"Time spent downloading weights", r"Fetching \d+ files"),
    LoadPhase.COMPILING: (
        r"Starting torch\.compile",
        r"torch\.compile took ",
        r"Dynamo bytecode transform time",
        r"Compiling a graph for ",
        r"Directly load the compiled graph",
        r"Cache the graph of ",
    ),
    LoadPhase.CAPTURING: (r"Capturing (the model for )?CUDA graph", r"Graph capturing finished"),
    LoadPhase.ENGINE_READY: (
        r"[CG]PU KV cache size: ",
        r"init engine \(profile",
        r"Starting vLLM (API )?server",
    ),
    LoadPhase.SERVING: (r"Application startup complete",),
    LoadPhase.CONFIGURING: (
        r"Resolved architecture: ",
        r"Using max model len ",
        r"Initializing a V\d LLM engine ",
    ),
}
_PATTERNS = {phase: re.compile("|".join(said)) for phase, said in _SENTENCES.items()}


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """What the log of one run shows so far.

    `progress_lines` counts the lines that show progress; `served`: the start was completed; `loads`
    counts completed readings of the weights, once for all workers.
    """

    lines: int = 0
    progress_lines: int = 0
    served: bool = False
    loads: int = 0
    weights_reported: bool = False


def loading_phase(line: str) -> LoadPhase | None:
    """The phase that a line of vLLM's log shows, None for any other line."""
    return next((phase for phase, said in _PATTERNS.items() if said.search(line)), None)


def read_line(progress: LoadProgress, line: str) -> LoadProgress:
    """Add one more line of the same run."""
    phase = loading_phase(line)
    if phase is None:
        return replace(progress, lines=progress.lines + 1)
    reported = progress.weights_reported
    loads = progress.loads
    if phase is LoadPhase.RELOADING:
        reported = False
    elif phase is LoadPhase.WEIGHTS_READ and not reported:
        # Each worker, and a draft model, reports its own weights: the first report counts.
        reported, loads = True, loads + 1
    return LoadProgress(
        lines=progress.lines + 1,
        progress_lines=progress.progress_lines + 1,
        served=progress.served or phase is LoadPhase.SERVING,
        loads=loads,
        weights_reported=reported,
    )
