"""How the answers of older and newer releases of vLLM differ from 0.32.0, by recorded answers.

A span ends before the release that it names. If only releases around a change were recorded, the
change is assigned to the first recorded release that has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LATEST = "0.32.0"  # the release that is imitated in every detail
OLDEST = (0, 8, 5)


@dataclass(frozen=True, slots=True)
class Age:
    """One release. `v0` is the old engine core, which vLLM had beside V1 until 0.10."""

    version: str = LATEST
    v0: bool = False

    @property
    def release(self) -> tuple[int, ...]:
        """Three numbers; (0, 0, 0) if the text is no version."""
        found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", self.version)
        return (0, 0, 0) if found is None else tuple(int(part or 0) for part in found.groups())


@dataclass(frozen=True, slots=True)
class Span:
    """The releases from `since` on and before `until`; of one engine core if `v0` is set."""

    since: tuple[int, ...] = OLDEST
    until: tuple[int, ...] | None = None
    v0: bool | None = None

    def __contains__(self, age: Age) -> bool:
        if self.v0 is not None and self.v0 != age.v0:
            return False
        return self.since <= age.release and (self.until is None or age.release < self.until)


# APIs beside chat completions. The simulator has them in the form of the latest release.
RESPONSES = Span(since=(0, 10), v0=False)
MESSAGES = Span(since=(0, 11, 1), v0=False)

# Usage
V1_CACHED_TOKENS = Span(since=(0, 9), v0=False)
V0_CACHED_TOKENS = Span(v0=True)  # recorded on a CPU, whose worker lacks some families of the GPU's
CACHED_ZERO = Span(since=(0, 24))  # before, the details are missing with 0 hits
MULTIMODAL_TOKENS = Span(since=(0, 24))
CREATED_CACHE_TOKENS = Span(since=(0, 26))
COMPLETION_DETAILS = Span(since=(0, 29))

# Fields of an answer
TOKEN_IDS = Span(since=(0, 10, 2))
PROMPT_TEXT = Span(since=(0, 22))
FINGERPRINT = Span(since=(0, 22))
ROUTED_EXPERTS = Span(since=(0, 22))
TRANSFER_PARAMS = Span(since=(0, 9))
ENCODER_PARAMS = Span(since=(0, 27))
OPENAI_FIELDS = Span(since=(0, 10))  # refusal, annotations, audio, service_tier…
REASONING_CONTENT = Span(until=(0, 11))  # `reasoning` since
EMPTY_TOOL_CALLS = Span(until=(0, 24))  # of a message without any
SPARSE_CHUNKS = Span(since=(0, 9), until=(0, 9, 2))  # nulls left out, an empty list of tool calls

# Requests
SALTS = Span(since=(0, 9), v0=False)
SALTS_REFUSED = Span(since=(0, 9), v0=True)
TOOLS_LEFT_OUT = Span(until=(0, 10))  # of the prompt, where `tool_choice` is "none"
TOKENIZED_TOOLS = Span(since=(0, 9))
PINNED_RANKS = Span(since=(0, 14))  # read in its source, as no older rank was recorded

REFUSES_PAUSED = Span(since=(0, 33))  # before, requests wait

# Errors
ERROR_PARAMS = Span(since=(0, 14))  # errors name the wrong field
FLAT_ERRORS = Span(until=(0, 10, 2))  # {"object": "error", …} in place of {"error": …}

# Counters
COUNTS_BLOCKS = Span(until=(0, 9), v0=False)
COUNTS_RETRIES = Span(until=(0, 27), v0=False)
CREATED_SERIES = Span(v0=False)
PROCESS_START = Span(v0=False)
RANK_LABEL = Span(v0=False)
V1, V0, ALWAYS = Span(v0=False), Span(v0=True), Span()
