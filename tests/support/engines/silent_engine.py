"""A vLLM that may leave cached tokens out of its answers, and the requests to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fake_clock import FakeClock
from publish_records import engine_view

from exporter.analysis.hits.usage_details import always_reports
from exporter.analysis.turn_notices import usage_notice
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.model.chat import Chat, Usage
from exporter.model.engine import EngineInfo
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.request_scope import RequestScope

if TYPE_CHECKING:
    from exporter.model.failure import Failure

DEADLINES = Deadlines()


REQUEST = ChatRequest("tiny", [{"role": "user", "content": "hello"}], 1)


PROMPT = 1000


@dataclass
class Engine:
    """A vLLM as the exporter sees it: its answers, and its page. `hits` are those to come."""

    version: str | None = "0.22.1"
    flag: bool = True
    readable: bool = True
    says_start: bool = True
    late: int = 0  # readings that the page is behind after an answer
    restarts: int = 0
    start: float = 1_700_000_000.0
    queried: float = 0.0
    hits: float = 0.0
    prompts: float = 0.0
    others_between: tuple[int, int] = (0, 0)  # looked up and hit by others during each request
    looks: int = 0
    sent: int = 0
    _behind: tuple[float, float, float, int] | None = None
    next_hit: list[int] = field(default_factory=list)

    @property
    def old(self) -> bool:
        return not always_reports(self.version)

    def restart(self, **changed) -> None:
        self.restarts += 1
        self.start += 100.0
        self.queried = self.hits = self.prompts = 0.0
        self._behind = None
        for name, value in changed.items():
            setattr(self, name, value)

    def note_process(self, process) -> None:
        """Nothing depends on it here."""

    async def chat(self, *_arguments) -> Chat:
        self.sent += 1
        cached = self.next_hit.pop(0) if self.next_hit else 0
        self._behind = (self.queried, self.hits, self.prompts, self.late)
        others, others_hit = self.others_between
        self.queried += PROMPT + others
        self.hits += cached + others_hit
        self.prompts += PROMPT + others
        told = cached if self.flag and (cached or not self.old) else None
        return answer(Usage(PROMPT, 1, told))

    async def observe(self):
        self.looks += 1
        if not self.readable:
            return replace(engine_view(), snapshot=None)
        queried, hits, prompts = self.queried, self.hits, self.prompts
        if self._behind is not None and self._behind[3] > 0:
            queried, hits, prompts, left = self._behind
            self._behind = (queried, hits, prompts, left - 1)
        view = engine_view()
        snapshot = replace(
            view.snapshot,
            process_start_time=self.start if self.says_start else None,
            queried_tokens=queried,
            hit_tokens=hits,
            prompt_tokens=prompts,
            cached_prompt_tokens=None,
            requests_running=0.0,
            requests_waiting=0.0,
        )
        return replace(view, snapshot=snapshot, restarts=self.restarts)

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("tiny", 8192, self.version, simulated=False)


def answer(usage: Usage | None, failure: Failure | None = None) -> Chat:
    return Chat(
        sent_at=1.0,
        token_times=(2.0,),
        finished_at=3.0,
        usage=usage,
        finish_reason="stop",
        prompt_token_ids=None,
        completion_token_ids=None,
        message={},
        failure=failure,
    )


class Clock(FakeClock):
    """Sleeps are over at once."""

    async def sleep(self, seconds):
        self.jump(seconds)


def requests_of(engine, **options):
    return EngineRequests(engine, engine.observe, Clock(), **options)


class Asked:
    """The answers of one scope, settled by all that is known."""

    def __init__(self, engine, scope) -> None:
        self.engine, self.scope, self.usages = engine, scope, []

    async def ask(self, *hits):
        self.engine.next_hit = list(hits)
        for _ in hits:
            chat = await self.scope.chat(REQUEST, DEADLINES)
            self.usages.append(chat.usage)
        return self.cached()

    def settled(self):
        self.usages = [self.scope.settled(usage) for usage in self.usages]
        return self.usages

    def cached(self):
        return [usage.cached_tokens for usage in self.settled()]

    def notice(self):
        lacking = any(map(self.scope.lacks, self.usages))
        return usage_notice(self.settled(), lacking=lacking)


async def asked(engine, requests=None, **options):
    requests = requests or requests_of(engine, **options)
    return Asked(engine, RequestScope(requests, engine.info, await engine.observe()))
