"""What the commands on one engine share: its options, its settings and the access to it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic import SecretStr

from exporter import config, logs
from exporter.cli.settings import load_settings
from exporter.clock import SystemClock
from exporter.daemon.kv_events import KvEventReception
from exporter.daemon.probing import engine_client, session_plan
from exporter.engine.scraper import Scraper
from exporter.errors import ConfigError
from exporter.loops import LoopHeartbeat
from exporter.metrics.state.target import TargetState
from exporter.probe.engine_requests import EngineRequests
from exporter.scenario.library import load_scenarios
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AsyncExitStack

    from exporter.cli.parsing.parser import Parser
    from exporter.config import ProbeSettings, Settings, Target
    from exporter.engine.events.feed import KvEventFeed
    from exporter.probe.session.plan import SessionPlan

SESSION_SETTINGS = ("probe.scenario",)
"""The settings that matter most for one session."""
API_SETTING = "probe.api"
"""The same, for the commands that play sessions."""


def add_engine_arguments(parser: Parser, *, positional: bool = True) -> None:
    """The URL, `--target` or `--simulated`, and the options that belong to a URL.

    The URL is an argument of its own if `positional`, and always the option `--url`.
    """
    group = parser.add_argument_group("engine")
    engine = group.add_mutually_exclusive_group()
    if positional:
        engine.add_argument(
            "url",
            nargs="?",
            default=argparse.SUPPRESS,  # its None would replace the value of --url
            metavar="URL",
            help="http://HOST:8000 or HOST:8000, also with /v1",
        )
    engine.add_argument("--url", help="the same as an option" if positional else "the engine")
    engine.add_argument("--target", metavar="NAME", help="a configured target in place of a URL")
    engine.add_argument(
        "--simulated", action="store_true", help="a SIMULATED engine, started for this run only"
    )
    group.add_argument("--model", metavar="NAME", help="default: the first that the server lists")
    group.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="its API key (default: VLLM_API_KEY or OPENAI_API_KEY)",
    )
    _add_request_arguments(parser, group)


def _add_request_arguments(parser: Parser, group: argparse._ArgumentGroup) -> None:
    header = group.add_argument(
        "--header",
        dest="headers",
        action=_AddHeader,
        metavar="'NAME: VALUE'",
        help="with a URL: a header of each request; may be repeated. Other users of this machine "
        "can see it in the list of processes: for a secret, configure a target with header_files",
    )
    parser.shorten(header, "a header of each request; may be repeated")
    body = group.add_argument(
        "--extra-body",
        type=_json_object,
        metavar="JSON",
        help="with a URL: more fields of each chat request, as a JSON object",
    )
    parser.shorten(body)
    ranks = group.add_argument(
        "--data-parallel-ranks",
        choices=get_args(config.RankChoice),
        help="with a URL: whether each session keeps to one rank (default: unpinned)",
    )
    parser.shorten(ranks)


class _AddHeader(argparse.Action):
    """Adds a header to a table of them. A name may be given once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        name, colon, value = str(values).partition(":")
        headers = dict(getattr(namespace, self.dest) or {})
        if not colon:
            parser.error(f"{option_string}: must be 'NAME: VALUE'")
        if name.strip() in headers:
            parser.error(f"{option_string}: {name.strip()} is given twice")
        setattr(namespace, self.dest, headers | {name.strip(): value.strip()})


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("must be a JSON object, such as '{\"priority\": 1}'")
    return found


def add_kv_events_argument(parser: Parser) -> None:
    """`--kv-events-url`, which belongs to a URL."""
    address = parser.add_argument(
        "--kv-events-url",
        metavar="URL",
        help="with a URL: where vLLM publishes its KV events, such as tcp://127.0.0.1:5557",
    )
    parser.shorten(address)


async def simulated_url(stack: AsyncExitStack) -> str:
    """The URL of a simulated engine that runs as long as `stack` is open. It logs errors only."""
    logs.configure("console", "error")
    simulator = Simulator(SimulatorSettings(port=0))
    return (await stack.enter_async_context(simulator)).url


def choose_target(options: argparse.Namespace, url: str | None) -> tuple[Settings, Target]:
    """The target at `url`, the named one, or the only configured one.

    Raises `ConfigError` if there is none.
    """
    if url is not None:
        add_targets(options, {options.command: url})
    settings = _settings(options)
    quiet_logs(settings)
    names = [each.name for each in settings.targets]
    wanted = options.target or (names[0] if len(names) == 1 else None)
    if wanted not in names:
        known = f"configured targets: {', '.join(names)}" if names else "no target is configured"
        raise ConfigError(
            f"{options.command} needs one engine: give its URL (http://HOST:8000), --target NAME, "
            f"or --simulated ({known})"
        )
    target = settings.targets[names.index(wanted)]
    return settings, target if options.target else with_key_of_environment(target, os.environ)


def with_key_of_environment(target: Target, environ: Mapping[str, str]) -> Target:
    """The target with the key that other clients of vLLM use, if it has none of its own.

    Raises `ConfigError` if that is no key.
    """
    name = "VLLM_API_KEY" if environ.get("VLLM_API_KEY") else "OPENAI_API_KEY"
    key = environ.get(name, "").strip()
    has_own = target.api_key is not None or any(
        name.lower() == "authorization" for name in target.headers
    )
    if has_own or not key:
        return target
    if not key.isprintable():
        raise ConfigError(f"environment variable {name}: must be one line of text")
    return target.model_copy(update={"api_key": SecretStr(key)})


def quiet_logs(settings: Settings) -> None:
    """Log errors only, in place of the default level info: the terminal shows the result."""
    level = settings.log.level
    logs.configure(settings.log.format, "error" if level == "info" else level)


_OPTIONS = {
    "url": "--url",
    "model": "--model",
    "api_key_file": "--api-key-file",
    "kv_events_url": "--kv-events-url",
    "headers": "--header",
    "extra_body": "--extra-body",
    "data_parallel_ranks": "--data-parallel-ranks",
}
"""The settings of the target of `--url`, and their options."""


def _settings(options: argparse.Namespace) -> Settings:
    """The settings. An error in the target of `--url` names the option of the command."""
    try:
        return load_settings(options).settings
    except ConfigError as error:
        text = str(error)
        for key, option in _OPTIONS.items() if options.url is not None else ():
            text = text.replace(f"--targets: targets[0].{key}.", f"{option} ")  # a key of a table
            text = text.replace(f"--targets: targets[0].{key}", option)
        raise ConfigError(text) from error


def add_targets(options: argparse.Namespace, urls: Mapping[str, str]) -> None:
    """Set the targets in `options`: one for each URL, by its name."""
    given = {key: value for key in _OPTIONS if (value := getattr(options, key, None)) is not None}
    targets = [{**given, "name": name, "url": url} for name, url in urls.items()]
    options.settings = config.collected(options) | {"targets": json.dumps(targets)}


@dataclass(frozen=True, slots=True)
class EngineAccess:
    """One engine, as the commands use it: the session of the daemon, and a way to send it."""

    url: str
    settings: ProbeSettings
    plan: SessionPlan
    scraper: Scraper
    requests: EngineRequests


@asynccontextmanager
async def engine_access(settings: Settings, target: Target) -> AsyncIterator[EngineAccess]:
    """Access to an engine. Raises `ConfigError` if a scenario file has errors."""
    clock = SystemClock()
    unread = TargetState(target.name)
    timeout, api = settings.scrape.timeout_seconds, settings.probe.api
    async with engine_client(target, timeout, api) as client:
        # It has no loop: it reads on demand and publishes nothing.
        scraper = Scraper(
            target.name,
            client,
            clock,
            interval_seconds=settings.scrape.interval_seconds,
            timeout_seconds=settings.scrape.timeout_seconds,
            sink=unread,
            heartbeat=LoopHeartbeat("scrape", unread.loops, clock),
            replica_pages=target.replica_pages,
        )
        scenarios = load_scenarios(settings.probe.scenario)
        plan = session_plan(target.name, settings.probe, scenarios, target.adapters)
        async with _received(target, unread, clock) as kv_events:
            yield EngineAccess(
                url=target.base_url,
                settings=settings.probe,
                plan=plan,
                scraper=scraper,
                requests=EngineRequests(
                    client,
                    scraper.refresh,
                    clock,
                    from_counters=settings.probe.cached_tokens_from_counters,
                    pin_ranks=target.data_parallel_ranks == "pinned",
                    first_rank=random.randrange(1 << 16),
                    kv_events=kv_events,
                ),
            )


_CONNECT_SECONDS = 3.0


@asynccontextmanager
async def _received(
    target: Target, state: TargetState, clock: SystemClock
) -> AsyncIterator[KvEventFeed | None]:
    """The target's KV events, received until the end; None if it has no `kv_events_url`.

    It waits a short time for the connection: what was published before does not arrive.
    """
    reception = KvEventReception.of(target, state, LoopHeartbeat("kv_events", state.loops, clock))
    if reception is None:
        yield None
        return
    task = asyncio.create_task(reception.run(), name="kv_events")
    try:
        waited_until = clock.monotonic() + _CONNECT_SECONDS
        while not reception.feed.connected and clock.monotonic() < waited_until:
            await clock.sleep(0.05)
        yield reception.feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def open_engine(options: argparse.Namespace, stack: AsyncExitStack) -> EngineAccess:
    """Access to the engine that the options name, as long as `stack` is open."""
    url = await simulated_url(stack) if options.simulated else options.url
    settings, target = choose_target(options, url)
    return await stack.enter_async_context(engine_access(settings, target))
