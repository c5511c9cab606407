"""The simulated server process: its ranks, counters and active faults."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import structlog

from exporter.simulator import metrics
from exporter.simulator.cache import Holding, PrefixCache
from exporter.simulator.engine_kinds.kv_store import KvStore
from exporter.simulator.engine_kinds.reuse import rule_of
from exporter.simulator.engine_kinds.sizes import cache_size
from exporter.simulator.faults import behaviours, faults
from exporter.simulator.releases import ages
from exporter.simulator.releases.ages import Age
from exporter.simulator.scheduler import Habits, Job, Rank
from exporter.simulator.text import answers, template, tokens
from exporter.simulator.timing import StepTimer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.clock import Clock
    from exporter.simulator.engine_kinds.settings import SimulatorSettings
    from exporter.simulator.faults.fault_fields import Fault
    from exporter.simulator.kv_events.publisher import KvEventPublisher
    from exporter.simulator.text.answers import Answer

_log = structlog.get_logger("exporter.simulator")


class Engine:
    """The engine behind the HTTP server. `start` and `stop` run the loops of the ranks."""

    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self.settings = settings
        self.age = Age(settings.version, settings.v0)
        self.clock = clock
        self.faults = faults.ActiveFaults()
        for behaviour in settings.behaviours:
            self.faults.set(behaviour)
        self._random = Random(settings.seed)
        self._submitted = 0
        self._loops: list[asyncio.Task[None]] = []
        self._http_open = asyncio.Event()
        self._http_open.set()
        self._store: KvStore | None = None
        self._publishers = self._new_publishers()
        self._begin()

    def _begin(self) -> None:
        """Act like a new process: empty caches, counters at 0, a new start time."""
        given = self.settings
        self.started_time = self.clock.time()
        self.process = metrics.ProcessMetrics(
            self.age, given.model, given.engine_ranks, self.started_time, given.block_size
        )
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
        for publisher, publishing in zip(self._publishers, self.ranks, strict=False):
            publisher.restart()
            publishing.cache.events = publisher
        for rank in self.process.ranks:
            rank.follow("engine_sleep_state", lambda: float(self.sleep_level == 0), "awake")
            rank.follow("engine_sleep_state", lambda: self.sleep_level == 1, "weights_offloaded")
            rank.follow("engine_sleep_state", lambda: self.sleep_level == 2, "discard_all")  # noqa: PLR2004
        self._apply()

    def _new_publishers(self) -> list[KvEventPublisher]:
        config = self.settings.kv_events
        if config is None:
            return []
        from exporter.simulator.kv_events.publisher import (  # noqa: PLC0415 - the extra `events`
            KvEventPublisher,
        )

        return [KvEventPublisher(config, rank) for rank in range(self.settings.engine_ranks)]

    @property
    def kv_events_endpoint(self) -> str | None:
        """Where the first rank publishes, with the actual port."""
        return self._publishers[0].endpoint if self._publishers else None

    def close(self) -> None:
        """Close what is open beside the loops."""
        for publisher in self._publishers:
            publisher.close()

    @property
    def num_blocks(self) -> int:
        small = self.faults.get(faults.SmallCache)
        return self.settings.num_blocks if small is None else small.blocks

    @property
    def max_model_len(self) -> int:
        """The limit for prompt plus answer, in tokens; at most the size of the cache."""
        return min(self.settings.max_model_len, (self.num_blocks - 1) * self.settings.block_size)

    @property
    def prefix_caching(self) -> bool:
        given = self.settings.enable_prefix_caching
        return given and self.faults.get(faults.NoPrefixCaching) is None

    @property
    def usage_details(self) -> bool:
        given = self.settings.enable_prompt_tokens_details
        return given and self.faults.get(faults.NoUsageDetails) is None

    @property
    def models(self) -> tuple[str, ...]:
        """The served model names, the base model first."""
        card = self.faults.get(behaviours.ModelCard)
        name = self.settings.model
        return (name, f"{name}-lora") if card and card.kind == "adapter" else (name,)

    @property
    def sleep_level(self) -> int:
        """The sleep level; 0 is awake."""
        asleep = self.faults.get(behaviours.Asleep)
        return 0 if asleep is None else asleep.level

    @property
    def open_ranks(self) -> list[Rank]:
        """The ranks that get requests."""
        gone = self.faults.get(behaviours.PodGone) is not None and len(self.ranks) > 1
        return self.ranks[:-1] if gone else self.ranks

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
        """Lose the state of the process; the faults stay active."""
        await self.stop()
        self._begin()
        self.start()

    def inject(self, fault: Fault) -> None:
        self.faults.set(fault)
        self._apply()

    def clear(self, kind: type[Fault] | None = None) -> None:
        self.faults.clear(kind)
        self._apply()

    def _apply(self) -> None:
        """Apply the active faults to the ranks."""
        slow = self.faults.get(faults.Slow)
        hang = self.faults.get(faults.Hang)
        engine_hangs = hang is not None and hang.scope == "engine"
        for rank in self.ranks:
            rank.timer.slowdown = 1.0 if slow is None else slow.factor
            rank.wedged = self.faults.get(faults.Wedge) is not None
            rank.habits = self._habits()
            rank.cache.rule = rule_of(self.faults)
            if rank.cache.caching != self.prefix_caching:
                rank.cache.caching = self.prefix_caching
                rank.cache.forget()
            if rank.cache.num_blocks != self.num_blocks:
                rank.resize(self.num_blocks)
            rank.hang_after(hang.after_tokens if hang and engine_hangs else None)
            rank.sleep(asleep=self._waits())
        if hang is not None and hang.scope == "http":
            self._http_open.clear()
        else:
            self._http_open.set()
        self._publish_cache_config()

    def _waits(self) -> bool:
        paused = self.faults.get(behaviours.Paused)
        return self.sleep_level > 0 or (paused is not None and paused.answer == "waits")

    def _habits(self) -> Habits:
        queue = self.faults.get(behaviours.FrozenQueue)
        recounted = self.faults.get(behaviours.RecountedLookups)
        transfer = self.faults.get(behaviours.Transfer)
        drafts = self.faults.get(behaviours.Drafts)
        return Habits(
            counts_retries=self.age in ages.COUNTS_RETRIES,
            lookups_counted=1 if recounted is None else recounted.times,
            computed_of_transfer=None if transfer is None else transfer.computed,
            phantom_requests=0 if queue is None else queue.requests,
            draft_tokens=0 if drafts is None else drafts.tokens,
            store=self._external_store(),
        )

    def _external_store(self) -> KvStore | None:
        """The store beside the engine. It outlives a restart."""
        external = self.faults.get(behaviours.ExternalStore)
        if external is None:
            self._store = None
        elif self._store is None:
            self._store = KvStore(external.chunk, self.settings.block_size)
        return self._store

    def _publish_cache_config(self) -> None:
        longest = self.max_model_len
        size = cache_size(self.settings, self.faults, self.num_blocks, longest)
        self.process.set_cache_config(
            metrics.cache_config_labels(
                self.age, size, max_model_len=longest, caching=self.prefix_caching
            )
        )

    async def http_open(self) -> None:
        """Wait until the HTTP server answers."""
        await self._http_open.wait()

    def encode_chat(
        self,
        messages: Sequence[template.Message],
        tools: Sequence[template.Tool] | None,
        *,
        generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The prompt's token ids, by the active chat template and its `variables`.

        Raises `template.RefusedError` if the template refuses the messages.
        """
        if self.faults.get(behaviours.NoTemplate) is not None:
            raise template.RefusedError(template.NONE_GIVEN)
        text = template.render(
            messages,
            tools,
            generation_prompt=generation_prompt,
            moving_system_prompt=self.faults.get(faults.MovingSystemPrompt) is not None,
            system_role=self.faults.get(behaviours.NoSystemRole) is None,
            head=self._clock_in_template(),
            thinking=(variables or {}).get("enable_thinking") is not False,
        )
        first = self.faults.get(behaviours.TokenAtStart)
        return tokens.encode(text) if first is None else [tokens.START, *tokens.encode(text)]

    def _clock_in_template(self) -> str:
        shown = self.faults.get(behaviours.ClockInTemplate)
        if shown is None:
            return ""
        digits = 6 if shown.unit == "microseconds" else 0
        return f"Current time: {self.clock.time():.{digits}f}\n"

    def submit(
        self,
        prompt_ids: Sequence[int],
        answer: Answer,
        *,
        salt: str | None,
        max_tokens: int,
        rank: int | None = None,
    ) -> tuple[Rank, Job]:
        """Queue a request, by default on the least loaded rank."""
        if self.age not in ages.SALTS or self.faults.get(faults.IgnoreSalts) is not None:
            salt = None
        abort = self.faults.take(faults.Abort)
        job = Job(
            abort_after=None if abort is None else abort.after_tokens,
            answer=answer,
            holding=Holding(prompt_ids, salt, self._kept_tokens(prompt_ids, answer)),
            max_tokens=max_tokens,
            arrived=self.clock.monotonic(),
            prompt_tokens=len(prompt_ids),
        )
        chosen = self._chosen_rank() if rank is None else self.ranks[rank]
        if company := self.faults.get(behaviours.Company):
            chosen.submit(self._job_of_another_client(company.tokens))
        chosen.submit(job)
        self._submitted += 1
        return chosen, job

    def _kept_tokens(self, prompt_ids: Sequence[int], answer: Answer) -> int | None:
        """How many tokens of a prompt and its answer are kept; None: all that are computed.

        In every third answer a draft is accepted at the end, so the last step has several tokens.
        """
        lost = self.faults.get(behaviours.ForgetLastStep)
        if lost is None or self._random.randrange(3):
            return None
        step = min(self._random.randint(1, lost.tokens), len(answer.token_ids) - 1)
        return len(prompt_ids) + len(answer.token_ids) - 1 - step

    def _chosen_rank(self) -> Rank:
        ranks = self.open_ranks
        spread = self.faults.get(behaviours.Spread)
        if spread is None:
            return min(ranks, key=lambda each: each.load)
        if spread.how == "shuffled":
            return self._random.choice(ranks)
        return ranks[self._submitted % len(ranks)]

    def _job_of_another_client(self, prompt_tokens: int) -> Job:
        text = f"request {self._submitted} of another user " * prompt_tokens
        ids = tokens.encode(text)[:prompt_tokens]
        wish = answers.Wish(max_tokens=2, usual_tokens=2, ignore_eos=True)
        return Job(
            answer=answers.plan(ids, wish),
            holding=Holding(ids, None),
            max_tokens=wish.max_tokens,
            arrived=self.clock.monotonic(),
            prompt_tokens=len(ids),
        )

    def abort_all(self) -> None:
        """End every request with finish reason "abort", as on SIGTERM."""
        self._http_open.set()
        for rank in self.ranks:
            rank.abort_all()

    def reset_prefix_cache(self) -> bool:
        done = [rank.cache.reset() for rank in self.ranks]  # stop each one, also if another fails
        return all(done)

    def metrics_page(self) -> bytes:
        quiet = self.faults.get(faults.NoLogStats) is not None
        return self.process.page(
            log_stats=self.settings.log_stats and not quiet,
            start_time=self.faults.get(behaviours.NoStartTime) is None,
        )


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("simulator.rank_died", task=task.get_name(), exc_info=error)
