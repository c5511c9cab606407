"""One engine rank: a queue, a running batch, and steps that take time.

As in vLLM, each step first gives running requests their next tokens, oldest first, within the
step's token budget. If blocks run out, the youngest request is preempted and starts again later.
Then waiting requests are admitted while there is room. Without requests the loop sleeps.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.clock import Clock
    from exporter.simulator.cache import Holding, PrefixCache
    from exporter.simulator.engine_kinds.kv_store import KvStore
    from exporter.simulator.engine_kinds.settings import SimulatorSettings
    from exporter.simulator.metrics import RankMetrics
    from exporter.simulator.text.answers import Answer
    from exporter.simulator.timing import StepTimer


@dataclass(frozen=True, slots=True)
class Progress:
    """How many tokens of an answer exist, and whether more will come."""

    tokens: int
    last: bool
    aborted: bool = False


@dataclass(eq=False, slots=True)
class Job:
    """One request in the engine. `cached` and `created` are tokens, known after admission.

    `cached` is what usage reports: `hit` tokens came from this engine's own cache, the rest from
    another engine.
    """

    answer: Answer
    holding: Holding
    max_tokens: int
    arrived: float
    prompt_tokens: int
    progress: asyncio.Queue[Progress] = field(default_factory=asyncio.Queue)
    computed: int = 0
    emitted: int = 0
    hit: int = 0
    cached: int = 0
    created: int = 0
    admitted: bool = False
    done: bool = False
    preemptions: int = 0
    abort_after: int | None = None  # a fault: the engine drops the request after so many tokens
    scheduled_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Habits:
    """Special behaviours of a rank. `computed_of_transfer` is how many tokens of each prompt this
    engine computes if another engine computes the rest.
    """

    counts_retries: bool = False  # count also the lookup of a request that finds no room
    lookups_counted: int = 1  # how many times a lookup counts
    computed_of_transfer: int | None = None
    phantom_requests: int = 0
    draft_tokens: int = 0  # how many tokens a draft has; 0 without speculative decoding
    store: KvStore | None = None


@dataclass(slots=True)
class Step:
    """The work of one step: tokens per job, and how many jobs it admitted."""

    work: dict[Job, int] = field(default_factory=dict)
    admitted: int = 0


class Rank:
    """One engine rank with its own cache."""

    def __init__(
        self,
        settings: SimulatorSettings,
        cache: PrefixCache,
        timer: StepTimer,
        metrics: RankMetrics,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self.cache = cache
        self.timer = timer
        self._metrics = metrics
        self._clock = clock
        self._running: list[Job] = []
        self._waiting: deque[Job] = deque()
        self._changed = asyncio.Event()
        self._hang_after: int | None = None
        self._asleep = False
        self.wedged = False
        self.habits = Habits()
        metrics.follow("num_requests_running", lambda: len(self._running))
        metrics.follow("num_requests_waiting", self._shown_waiting)
        metrics.follow("num_requests_waiting_by_reason", self._shown_waiting, "capacity")
        metrics.follow("kv_cache_usage_perc", lambda: self.cache.usage)

    def _shown_waiting(self) -> int:
        return len(self._waiting) + self.habits.phantom_requests

    @property
    def load(self) -> int:
        """The load by which vLLM chooses a rank: a waiting request counts as four running ones."""
        return 4 * len(self._waiting) + len(self._running)

    @property
    def running(self) -> int:
        return len(self._running)

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._changed.set()

    def abort(self, job: Job, *, tell: bool = False) -> None:
        """Drop a request; with `tell`, its stream ends with finish reason "abort"."""
        if job.done:
            return
        self._remove(job)
        if tell:
            self._metrics.count("request_success", 1, "abort")
            job.progress.put_nowait(Progress(job.emitted, last=True, aborted=True))

    def abort_all(self) -> None:
        for job in [*self._running, *self._waiting]:
            self.abort(job, tell=True)

    def hang_after(self, tokens: int | None) -> None:
        """Stop generating once a running request has `tokens` tokens; None continues."""
        self._hang_after = tokens
        self._changed.set()

    def sleep(self, *, asleep: bool) -> None:
        """Let requests wait until it is awake again."""
        self._asleep = asleep
        self._changed.set()

    def resize(self, num_blocks: int) -> None:
        """Change the cache to `num_blocks` blocks, and preempt requests if necessary.

        Aborts a request that can no longer fit.
        """
        room = (num_blocks - 1) * self.cache.block_size
        for job in [*self._running, *self._waiting]:
            if job.prompt_tokens + len(job.answer.token_ids) > room:
                self.abort(job, tell=True)
        while not self.cache.resize(num_blocks):
            self._preempt(self._running[-1])

    async def run(self) -> None:
        """Run steps until cancelled."""
        while True:
            while self._asleep or not (self._running or self._waiting):
                await self._change()
            step = self._schedule()
            await self._clock.sleep(self._seconds(step))
            while self._hanging():
                await self._change()
            self._deliver(step)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _hanging(self) -> bool:
        after = self._hang_after
        return after is not None and any(job.emitted >= after for job in self._running)

    def _seconds(self, step: Step) -> float:
        decoding = sum(job.computed >= job.prompt_tokens for job in step.work)
        prefill = sum(n for job, n in step.work.items() if job.computed < job.prompt_tokens)
        return self.timer.step_seconds(
            admitted=step.admitted, prefill_tokens=prefill, decoding=decoding
        )

    def _schedule(self) -> Step:
        step = Step()
        budget = self._settings.max_num_batched_tokens
        preempted = False
        for job in list(self._running):
            if job not in self._running:
                continue  # preempted for an earlier one
            tokens = min(len(job.holding.ids) - job.computed, budget)
            while not self.cache.extend(job.holding, job.computed + tokens):
                preempted = True
                victim = self._running[-1]
                step.work.pop(victim, None)
                self._preempt(victim)
                if victim is job:
                    break
            if job in self._running and tokens:
                step.work[job] = tokens
                budget -= tokens
        if not preempted:
            self._let_in(step, budget)
        return step

    def _let_in(self, step: Step, budget: int) -> None:
        while self._waiting and budget > 0 and len(self._running) < self._settings.max_num_seqs:
            job = self._waiting[0]
            hits = [] if self.wedged else self.cache.lookup(job.holding)
            if not self.cache.begin(job.holding, hits):
                if self.habits.counts_retries:
                    self._count_lookup(job, len(hits) * self.cache.block_size)
                return
            self._waiting.popleft()
            self._running.append(job)
            job.computed = len(hits) * self.cache.block_size
            if not job.admitted:
                self._record_admission(job)
                job.computed = max(job.computed, self._load(job))
            tokens = min(len(job.holding.ids) - job.computed, budget)
            self.cache.extend(job.holding, job.computed + tokens)
            step.work[job] = tokens
            step.admitted += 1
            budget -= tokens

    def _record_admission(self, job: Job) -> None:
        job.admitted = True
        job.hit = job.cached = job.computed
        if self.habits.computed_of_transfer is not None:
            job.cached = max(job.hit, job.prompt_tokens - self.habits.computed_of_transfer)
            self._metrics.count("external_prefix_cache_queries", job.prompt_tokens - job.hit)
            self._metrics.count("external_prefix_cache_hits", job.cached - job.hit)
            self._metrics.count("prompt_tokens_cached_by_source", job.cached - job.hit, "p2p")
        job.scheduled_at = self._clock.monotonic()
        self._count_lookup(job, job.hit)

    def _load(self, job: Job) -> int:
        """Load what an external store has of the prompt. Returns its tokens."""
        store = self.habits.store
        if store is None:
            return 0
        prompt = job.holding.ids[: job.prompt_tokens]
        job.cached = max(job.hit, store.find(prompt))
        store.save(prompt)
        loaded = job.cached - job.hit
        self._metrics.count("external_prefix_cache_queries", job.prompt_tokens - job.hit)
        self._metrics.count("external_prefix_cache_hits", loaded)
        self._metrics.count("prompt_tokens_cached_by_source", loaded, "external_unspecified")
        return job.cached

    def _count_lookup(self, job: Job, hit: int) -> None:
        if not self.cache.caching:
            return
        times = self.habits.lookups_counted
        self._metrics.count("prefix_cache_queries", job.prompt_tokens * times)
        self._metrics.count("prefix_cache_hits", hit * times)
        self._metrics.count("prompt_tokens_cached_by_source", hit * times, "device")

    def _deliver(self, step: Step) -> None:
        now = self._clock.monotonic()
        tokens = 0
        for job, computed in step.work.items():
            if job.done or job not in self._running:
                continue
            tokens += computed
            job.computed += computed
            if job.computed == len(job.holding.ids):
                self._emit(job, now)
        self._metrics.observe("iteration_tokens_total", tokens)
        if self.cache.events is not None:
            self.cache.events.flush(self._clock.time())

    def _emit(self, job: Job, now: float) -> None:
        if job.abort_after is not None and job.emitted >= job.abort_after:
            self.abort(job, tell=True)
            return
        if job.emitted == 0:
            self._record_first_token(job, now)
        else:
            self._metrics.observe("inter_token_latency_seconds", now - job.last_token_at)
        job.last_token_at = now
        job.holding.ids.append(job.answer.token_ids[job.emitted])
        job.emitted += 1
        self._metrics.count("generation_tokens")
        if self.habits.draft_tokens:
            self._metrics.count("spec_decode_num_drafts")
            self._metrics.count("spec_decode_num_draft_tokens", self.habits.draft_tokens)
        last = job.emitted == len(job.answer.token_ids)
        if last:
            self._count_accepted(job)
            self._remove(job)
            self._record_end(job, now)
        job.progress.put_nowait(Progress(job.emitted, last=last))

    def _count_accepted(self, job: Job) -> None:
        """Count the tokens of the last step that came from a draft."""
        kept = job.holding.kept_tokens
        if kept is not None:
            accepted = len(job.holding.ids) - 1 - kept
            self._metrics.count("spec_decode_num_accepted_tokens", accepted)
            for position in range(accepted):
                self._metrics.count("spec_decode_num_accepted_tokens_per_pos", 1, str(position))

    def _record_first_token(self, job: Job, now: float) -> None:
        block = self.cache.block_size
        registered = job.prompt_tokens // block * block if self.cache.caching else 0
        job.created = max(0, registered - job.cached)
        job.first_token_at = now
        metrics = self._metrics
        metrics.observe("time_to_first_token_seconds", now - job.arrived)
        metrics.count("prompt_tokens", job.prompt_tokens)
        metrics.count("prompt_tokens_cached", job.cached)
        for source, amount in (
            ("local_compute", job.prompt_tokens - job.cached),
            ("local_cache_hit", job.hit),
            ("external_kv_transfer", job.cached - job.hit),
        ):
            metrics.count("prompt_tokens_by_source", amount, source)

    def _record_end(self, job: Job, now: float) -> None:
        finish = job.answer.finish_reason
        metrics = self._metrics
        metrics.count("request_success", 1, "stop" if finish == "tool_calls" else finish)
        decode = now - job.first_token_at
        for name, value in (
            ("e2e_request_latency_seconds", now - job.arrived),
            ("request_queue_time_seconds", job.scheduled_at - job.arrived),
            ("request_inference_time_seconds", now - job.scheduled_at),
            ("request_prefill_time_seconds", job.first_token_at - job.scheduled_at),
            ("request_decode_time_seconds", decode),
            ("request_prompt_tokens", job.prompt_tokens),
            ("request_generation_tokens", job.emitted),
            ("request_max_num_generation_tokens", job.emitted),
            ("request_params_max_tokens", job.max_tokens),
            ("request_params_n", 1),
            ("request_num_preemptions", job.preemptions),
            ("request_prefill_kv_computed_tokens", job.prompt_tokens - job.cached),
        ):
            metrics.observe(name, value)
        if job.emitted > 1:
            metrics.observe("request_time_per_output_token_seconds", decode / (job.emitted - 1))

    def _preempt(self, job: Job) -> None:
        self._running.remove(job)
        self.cache.release(job.holding)
        job.computed = 0
        job.preemptions += 1
        self._metrics.count("num_preemptions")
        self._waiting.appendleft(job)

    def _remove(self, job: Job) -> None:
        job.done = True
        if job in self._running:
            self._running.remove(job)
            self.cache.release(job.holding)
        else:
            self._waiting.remove(job)
        self._changed.set()
