"""The settings of a simulated engine; the counterpart of vLLM's command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.errors import ConfigError
from exporter.simulator.releases import ages

if TYPE_CHECKING:
    from exporter.simulator.faults.fault_fields import Fault
    from exporter.simulator.kv_events.settings import KvEventsConfig


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """One simulated server. Times are in seconds, sizes in tokens unless the name says blocks.

    The first token comes after `prefill_floor_seconds` plus `prefill_seconds_per_token` for every
    token that the cache did not serve. Each further token takes `decode_seconds_per_token`. The
    defaults resemble a 7B model on one mid-range GPU. `time_scale` multiplies every simulated wait;
    0 answers at once, for tests.
    """

    host: str = "127.0.0.1"
    port: int = 8000  # 0 picks a free port
    model: str = "simulated"
    version: str = ages.LATEST  # the simulated release of vLLM
    v0: bool = False  # the old engine core, which vLLM had beside V1 until 0.10
    behaviours: tuple[Fault, ...] = ()  # active from the start
    block_size: int = 16  # vLLM's default on GPUs
    num_blocks: int = 2048  # one of them is vLLM's null block, which is always empty
    max_model_len: int = 8192
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 8192  # a longer prefill takes several steps
    engine_ranks: int = 1  # data-parallel engines, each with its own cache
    enable_prompt_tokens_details: bool = True
    enable_prefix_caching: bool = True
    enable_auto_tool_choice: bool = True
    log_stats: bool = True
    dev_mode: bool = True  # serves /reset_prefix_cache
    kv_events: KvEventsConfig | None = None  # None publishes none, as vLLM's default
    api_key: str | None = field(default=None, repr=False)
    prefill_floor_seconds: float = 0.02
    prefill_seconds_per_token: float = 0.0002
    decode_seconds_per_token: float = 0.012
    jitter_ratio: float = 0.03  # each step varies by up to this share
    time_scale: float = 1.0
    answer_tokens: int = 128  # an answer without a limit has between half as many and as many
    seed: int = 0

    def __post_init__(self) -> None:
        mistakes = [
            f"{name} = {getattr(self, name)!r} must be {allowed}"
            for name, low, allowed in _LOWEST
            if getattr(self, name) < low
        ]
        if not 0 <= self.port <= _HIGHEST_PORT:
            mistakes.append(f"port = {self.port!r} must be from 0 to {_HIGHEST_PORT}")
        if not self.model:
            mistakes.append("model = '' must be a name")
        if not 0 <= self.jitter_ratio < 1:
            mistakes.append(f"jitter_ratio = {self.jitter_ratio!r} must be from 0 to below 1")
        if ages.Age(self.version).release < ages.OLDEST:
            mistakes.append(f"version = {self.version!r} must be a release of vLLM, 0.8.5 or later")
        if self.api_key == "":
            mistakes.append("api_key = '' must be a key, or be left out")
        if mistakes:
            raise ConfigError("the simulator's settings are wrong: " + "; ".join(mistakes))


_HIGHEST_PORT = 65535
_LOWEST: tuple[tuple[str, float, str], ...] = (
    ("block_size", 1, "at least 1"),
    ("num_blocks", 2, "at least 2, since one of them is the null block"),
    ("max_model_len", 2, "at least 2"),
    ("max_num_seqs", 1, "at least 1"),
    ("max_num_batched_tokens", 1, "at least 1"),
    ("engine_ranks", 1, "at least 1"),
    ("prefill_floor_seconds", 0, "0 or more"),
    ("prefill_seconds_per_token", 0, "0 or more"),
    ("decode_seconds_per_token", 0, "0 or more"),
    ("time_scale", 0, "0 or more"),
    ("answer_tokens", 1, "at least 1"),
)
