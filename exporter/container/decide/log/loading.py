"""What vLLM's log says of its start: how far it is, and how often it has read its weights.

The sentences are vLLM's own, from a `vllm serve` 0.32.0 and from its source: v1/worker,
v1/engine/core.py, model_executor/model_loader, compilation/monitor.py. Older versions are met
where they word the same thing differently ("Loading model weights took" before 0.9,
"Starting vLLM API server" before 0.32).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum


class LoadPhase(StrEnum):
    """How far a start has come, in the usual order."""

    CONFIGURING = "configuring"
    DOWNLOADING = "downloading"
    READING_WEIGHTS = "reading_weights"
    WEIGHTS_READ = "weights_read"
    COMPILING = "compiling"
    CAPTURING = "capturing"  # CUDA graphs
    ENGINE_READY = "engine_ready"
    SERVING = "serving"  # the HTTP server is up
    RELOADING = "reloading"  # the weights once more, in place


# Read from the top: the first phase with a sentence in the line is the line's.
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
    """What the lines of one run of the container have told so far.

    `marks` counts the lines that tell of progress; `served` says that the start was completed;
    `loads` counts completed readings of the weights, however many workers told of each.
    """

    phase: LoadPhase | None = None
    lines: int = 0
    marks: int = 0
    served: bool = False
    loads: int = 0
    weights_told: bool = False


def loading_phase(line: str) -> LoadPhase | None:
    """The phase that a line of vLLM's log tells of, None for any other line."""
    return next((phase for phase, said in _PATTERNS.items() if said.search(line)), None)


def read_line(progress: LoadProgress, line: str) -> LoadProgress:
    """Fold one more line of the same run into what is known."""
    phase = loading_phase(line)
    if phase is None:
        return replace(progress, lines=progress.lines + 1)
    told = progress.weights_told
    loads = progress.loads
    if phase is LoadPhase.RELOADING:
        told = False
    elif phase is LoadPhase.WEIGHTS_READ and not told:
        # Each worker, and a draft model too, tells of its own: the first one counts.
        told, loads = True, loads + 1
    return LoadProgress(
        phase=phase,
        lines=progress.lines + 1,
        marks=progress.marks + 1,
        served=progress.served or phase is LoadPhase.SERVING,
        loads=loads,
        weights_told=told,
    )
