"""The simulated server process: its ranks, its counters, and the faults that are on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from exporter.simulator import faults, metrics, template, tokens
from exporter.simulator.cache import Holding, PrefixCache
from exporter.simulator.scheduler import Job, Rank
from exporter.simulator.timing import StepTimer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.clock import Clock
    from exporter.simulator.answers import Answer
    from exporter.simulator.settings import SimulatorSettings

_log = structlog.get_logger("exporter.simulator")


class Engine:
    """What lies behind the HTTP server. `start` and `stop` own the loops of the ranks."""

    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.faults = faults.ActiveFaults()
        self._loops: list[asyncio.Task[None]] = []
        self._http_open = asyncio.Event()
        self._http_open.set()
        self._begin()

    def _begin(self) -> None:
        """Be a new process: empty caches, counters at 0, a new start time."""
        given = self.settings
        self.started_time = self.clock.time()
        self.process = metrics.ProcessMetrics(given.model, given.engine_ranks, self.started_time)
        self.ranks = [
            Rank(
                given,
                PrefixCache(self.num_blocks, given.block_size, caching=given.enable_prefix_caching),
                StepTimer(given, rank),
                self.process.ranks[rank],
                self.clock,
            )
            for rank in range(given.engine_ranks)
        ]
        self._apply()

    @property
    def num_blocks(self) -> int:
        small = self.faults.get(faults.SmallCache)
        return self.settings.num_blocks if small is None else small.blocks

    @property
    def max_model_len(self) -> int:
        """The longest prompt and answer together; never more than the cache can hold at once."""
        return min(self.settings.max_model_len, (self.num_blocks - 1) * self.settings.block_size)

    @property
    def prefix_caching(self) -> bool:
        given = self.settings.enable_prefix_caching
        return given and self.faults.get(faults.NoPrefixCaching) is None

    @property
    def usage_details(self) -> bool:
        given = self.settings.enable_prompt_tokens_details
        return given and self.faults.get(faults.NoUsageDetails) is None

    def start(self) -> None:
        self._loops = [
            asyncio.create_task(rank.run(), name=f"simulator.rank{number}")
            for number, rank in enumerate(self.ranks)
        ]
        for task in self._loops:
            task.add_done_callback(_report_death)

    async def stop(self) -> None:
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []

    async def restart(self) -> None:
        """Lose everything that a process loses; the faults stay on."""
        await self.stop()
        self._begin()
        self.start()

    def inject(self, fault: faults.Fault) -> None:
        self.faults.set(fault)
        self._apply()

    def clear(self, kind: type[faults.Fault] | None = None) -> None:
        self.faults.clear(kind)
        self._apply()

    def _apply(self) -> None:
        """Bring the ranks in line with the faults that are on."""
        slow = self.faults.get(faults.Slow)
        hang = self.faults.get(faults.Hang)
        engine_hangs = hang is not None and hang.scope == "engine"
        for rank in self.ranks:
            rank.timer.slowdown = 1.0 if slow is None else slow.factor
            rank.wedged = self.faults.get(faults.Wedge) is not None
            if rank.cache.caching != self.prefix_caching:
                rank.cache.caching = self.prefix_caching
                rank.cache.forget()
            if rank.cache.num_blocks != self.num_blocks:
                rank.resize(self.num_blocks)
            rank.hang_after(hang.after_tokens if hang and engine_hangs else None)
        if hang is not None and hang.scope == "http":
            self._http_open.clear()
        else:
            self._http_open.set()
        self.process.set_cache_config(
            metrics.cache_config_labels(
                block_size=self.settings.block_size,
                num_blocks=self.num_blocks,
                max_model_len=self.max_model_len,
                prefix_caching=self.prefix_caching,
            )
        )

    async def http_open(self) -> None:
        """Return when the HTTP server answers at all."""
        await self._http_open.wait()

    def encode_chat(
        self,
        messages: Sequence[template.Message],
        tools: Sequence[template.Tool] | None,
        *,
        generation_prompt: bool = True,
    ) -> list[int]:
        """The prompt's token ids, by the chat template in force."""
        text = template.render(
            messages,
            tools,
            generation_prompt=generation_prompt,
            moving_system_prompt=self.faults.get(faults.MovingSystemPrompt) is not None,
        )
        return tokens.encode(text)

    def submit(
        self, prompt_ids: Sequence[int], answer: Answer, *, salt: str | None, max_tokens: int
    ) -> tuple[Rank, Job]:
        """Queue a request on the least loaded rank."""
        if self.faults.get(faults.IgnoreSalts) is not None:
            salt = None
        abort = self.faults.take(faults.Abort)
        job = Job(
            abort_after=None if abort is None else abort.after_tokens,
            answer=answer,
            holding=Holding(prompt_ids, salt),
            max_tokens=max_tokens,
            arrived=self.clock.monotonic(),
            prompt_tokens=len(prompt_ids),
        )
        rank = min(self.ranks, key=lambda each: each.load)
        rank.submit(job)
        return rank, job

    def abort_all(self) -> None:
        """End every request with finish reason "abort", as on SIGTERM."""
        self._http_open.set()
        for rank in self.ranks:
            rank.abort_all()

    def reset_prefix_cache(self) -> bool:
        done = [rank.cache.reset() for rank in self.ranks]  # each, whatever the others say
        return all(done)

    def metrics_page(self) -> bytes:
        quiet = self.faults.get(faults.NoLogStats) is not None
        return self.process.page(log_stats=self.settings.log_stats and not quiet)


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("simulator.rank_died", task=task.get_name(), exc_info=error)
