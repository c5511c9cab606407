"""Whether the fitted prefill cost predicts the time to first token of other prompts.

Plays sessions against one engine, as the daemon does by default, and fits the line of TTFT over
uncached tokens. In between it sends prompts of other lengths, cold and partly cached, and compares
the median TTFT of each with the line. Exits with 1 if a prompt of about the sessions' length is off
by more than the bound. Much shorter and longer prompts are printed too: the line is valid at the
sessions' length, because rendering, tokenizing and attention also depend on the whole length.

    python bench/bench_prefill_cost.py --url http://127.0.0.1:8000    a real engine
    python bench/bench_prefill_cost.py                                the SIMULATED one
"""

from __future__ import annotations

import argparse
import random
import secrets
import statistics
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import uvloop

from exporter.analysis.prefill_cost import points_of, prefill_cost, with_points
from exporter.clock import SystemClock
from exporter.config import ProbeSettings
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.scraper import Scraper
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.loops import LoopHeartbeat
from exporter.metrics.state.target import TargetState
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.scenario.fitting import fit
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from exporter.analysis.prefill_cost import Point, PrefillCost
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineInfo

BOUND = 0.25
# Lengths of the prompt, and of the one that was cached before it, as shares of a session's longest.
HELD_OUT: tuple[tuple[float, float | None], ...] = (
    (0.9, None),
    (1.1, None),
    (1.1, 0.75),
    (1.1, 0.5),
)
BEYOND: tuple[tuple[float, float | None], ...] = ((0.25, None), (0.5, None), (1.6, None))
DEADLINES = Deadlines(first_token=300, between_tokens=120, whole=600)


def new_salt() -> str:
    return secrets.token_hex(16)


def runner_of(client: EngineClient, seed: int) -> SessionRunner:
    """Sessions as the daemon plays them."""
    unread, clock = TargetState("bench"), SystemClock()
    scraper = Scraper(
        "bench",
        client,
        clock,
        interval_seconds=10,
        timeout_seconds=10,
        sink=unread,
        heartbeat=LoopHeartbeat("scrape:bench", unread.loops, clock),
    )
    return SessionRunner(
        SessionPlan("bench", CODING_AGENT, 8, DEADLINES),
        EngineRequests(client, scraper.refresh, SystemClock()),
        new_salt,
        control=ColdControl(ProbeSettings().control_ratio, random.Random(seed).random, new_salt),
    )


async def held_out_ttft(
    client: EngineClient, info: EngineInfo, longest: int, share: float, cached_share: float | None
) -> tuple[int, int, float]:
    """Prompt tokens, uncached tokens and TTFT of one prompt that no session had."""
    salt = new_salt()
    if cached_share is not None:
        await ask(client, info, round(cached_share * longest), salt)
    chat = await ask(client, info, round(share * longest), salt)
    usage = chat.usage
    if usage is None or usage.cached_tokens is None or chat.sent_at is None:
        sys.exit("the server does not report cached tokens")
    if (usage.cached_tokens > 0) != (cached_share is not None):
        sys.exit(f"unexpected: {usage.cached_tokens} cached tokens")
    uncached = usage.prompt_tokens - usage.cached_tokens
    return usage.prompt_tokens, uncached, chat.token_times[0] - chat.sent_at


async def ask(client: EngineClient, info: EngineInfo, tokens: int, salt: str) -> Chat:
    scenario, _ = await fit(CODING_AGENT, client, info, tokens, 8)
    request = ChatRequest(info.model, scenario.first_messages(), 8, salt, scenario.tools)
    chat = await client.chat(request, DEADLINES)
    if chat.failure is not None or not chat.token_times:
        sys.exit(f"a request failed: {chat.failure}")
    return chat


async def main(options: argparse.Namespace) -> int:
    async with AsyncExitStack() as stack:
        url = options.url
        if url is None:
            settings = replace(SimulatorSettings(), port=0, num_blocks=31_250)
            url = (await stack.enter_async_context(Simulator(settings))).url
        client = await stack.enter_async_context(EngineClient(url, timeout_seconds=10))
        info = await client.info()
        what = "SIMULATED vLLM" if info.simulated else f"vLLM {info.version}, model {info.model}"
        print(f"{what} at {url}: {options.sessions} sessions")
        runner = runner_of(client, options.seed)
        points: tuple[Point, ...] = ()
        times: dict[tuple[bool, int, int], list[float]] = {}
        for _ in range(options.sessions):
            result = await runner.play()
            if result.failure is not None:
                sys.exit(f"a session failed: {result.failure.detail}")
            points = with_points(points, points_of(result.turns))
            longest = max(turn.prompt_tokens or 0 for turn in result.turns)
            # Between the sessions, so that a slow minute of the machine affects both.
            for case in (*HELD_OUT, *BEYOND):
                prompt, uncached, ttft = await held_out_ttft(client, info, longest, *case)
                times.setdefault((case in HELD_OUT, prompt, uncached), []).append(ttft)
        return judge(points, times)


def judge(points: tuple[Point, ...], times: dict[tuple[bool, int, int], list[float]]) -> int:
    """Print the line and every held-out case; return the exit code."""
    cost = prefill_cost(points)
    lengths = [point.uncached_tokens for point in points]
    print(f"  {len(points)} points from {min(lengths)} to {max(lengths)} uncached tokens")
    if cost is None:
        print("  no significant cost was found")
        return 1
    print(
        f"  {cost.seconds_per_token * 1e6:.2f} us per token, error {cost.error * 1e6:.2f}, "
        f"floor {'unknown' if cost.floor_seconds is None else f'{cost.floor_seconds * 1e3:.1f} ms'}"
    )
    near = [compare(cost, *case, times[case]) for case in sorted(times, reverse=True)]
    return 0 if all(near) else 1


def compare(
    cost: PrefillCost, bounded: bool, prompt: int, uncached: int, times: list[float]
) -> bool:
    """Print one held-out case; return whether the line is near enough, if the case has a bound."""
    measured, predicted = statistics.median(times), cost.ttft_seconds(uncached)
    off = predicted / measured - 1
    print(
        f"  {uncached:5} uncached of {prompt:5} tokens: measured {measured * 1e3:7.1f} ms "
        f"({min(times) * 1e3:.1f} to {max(times) * 1e3:.1f}), predicted {predicted * 1e3:7.1f} ms, "
        f"off by {off:+.1%}{'' if bounded else '  (another length, no bound)'}"
    )
    return abs(off) <= BOUND or not bounded


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="the engine's root; without it a SIMULATED one is used")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(uvloop.run(main(parser.parse_args())))
