"""An answer of the resolver becomes a list of targets or a failure reason."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
from fake_clock import FakeClock

from exporter.config import DnsDiscovery
from exporter.discovery.dns import TIMEOUT_SECONDS, DnsSource, resolve
from exporter.discovery.targets.records import DiscoveryError, DiscoveryFailure, DiscoveryResult


class Resolver:
    """Gives the addresses or error in `says`; with None it never answers."""

    def __init__(self) -> None:
        self.says: list[str] | Exception | None = []
        self.asked: list[tuple[str, int]] = []
        self.let_go = asyncio.Event()

    async def __call__(self, host, family):
        self.asked.append((host, family))
        if self.says is None:
            await self.let_go.wait()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says or []


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def source(resolver, clock):
    made = DnsSource(DnsDiscovery(name="vllm", host="vllm.example"), clock, resolver)
    yield made
    await made.close()


async def failure(source) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as caught:
        await source.query()
    return caught.value


async def test_each_address_of_the_name_is_a_target(source, resolver):
    resolver.says = ["10.0.0.8", "10.0.0.7", "10.0.0.8"]
    look = await source.query()
    assert [each.name for each in look.targets] == ["vllm-10.0.0.7", "vllm-10.0.0.8"]
    assert resolver.asked == [("vllm.example", socket.AF_INET)]
    resolver.says = ["10.0.0.7", "10.0.0.8"]
    assert await source.query() == look
    resolver.says = ["10.0.0.9"]
    assert [each.name for each in (await source.query()).targets] == ["vllm-10.0.0.9"]
    resolver.says = []
    assert await source.query() == DiscoveryResult()


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_NODATA])
async def test_a_name_that_does_not_exist_or_has_no_address_has_no_targets(source, resolver, code):
    resolver.says = socket.gaierror(code, "Name or service not known")
    assert await source.query() == DiscoveryResult()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
            DiscoveryFailure.TEMPORARY,
        ),
        (
            socket.gaierror(socket.EAI_FAIL, "Non-recoverable failure in name resolution"),
            DiscoveryFailure.FAILED,
        ),
        (OSError(24, "Too many open files"), DiscoveryFailure.FAILED),
        (UnicodeError("label too long"), DiscoveryFailure.FAILED),
    ],
)
async def test_an_error_of_the_resolver_is_a_failed_query(source, resolver, error, reason):
    resolver.says = error
    found = await failure(source)
    assert found.reason is reason
    assert found.detail == f"vllm.example: {getattr(error, 'strerror', error)}"


async def test_a_query_fails_if_one_of_two_address_families_fails(clock):
    says = {socket.AF_INET: ["10.0.0.7"], socket.AF_INET6: ["fd00::7"]}

    async def resolver(_host, family):
        if isinstance(says[family], Exception):
            raise says[family]
        return says[family]

    settings = DnsDiscovery(name="vllm", host="vllm.example", addresses="both")
    source = DnsSource(settings, clock, resolver)
    assert len((await source.query()).targets) == 2
    says[socket.AF_INET6] = socket.gaierror(socket.EAI_NODATA, "No address")
    assert [each.name for each in (await source.query()).targets] == ["vllm-10.0.0.7"]
    says[socket.AF_INET6] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
    assert (await failure(source)).reason is DiscoveryFailure.TEMPORARY


async def test_a_hanging_resolver_times_out_and_is_not_asked_twice(source, resolver, clock):
    resolver.says = None
    for _ in range(3):
        looking = asyncio.create_task(failure(source))
        await clock.until_asleep()
        await clock.advance(TIMEOUT_SECONDS)
        assert (await looking).reason is DiscoveryFailure.TIMEOUT
    assert len(resolver.asked) == 1
    resolver.says = ["10.0.0.7"]
    resolver.let_go.set()
    assert [each.name for each in (await source.query()).targets] == ["vllm-10.0.0.7"]
    await source.query()
    assert len(resolver.asked) == 2


async def test_a_closed_source_leaves_no_task(source, resolver, clock):
    resolver.says = None
    looking = asyncio.create_task(source.query())
    await clock.until_asleep()
    looking.cancel()
    await asyncio.wait({looking})
    await source.close()
    await clock.settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_systems_resolver_knows_this_machine():
    assert set(await resolve("localhost", socket.AF_INET)) == {"127.0.0.1"}


async def test_the_systems_errors_come_through():
    # A part of a name has at most 63 characters, so no server is asked.
    with pytest.raises(UnicodeError):
        await resolve("a" * 64, socket.AF_INET)
    with pytest.raises(socket.gaierror):
        await resolve("10.0.0.7", socket.AF_INET6)


async def test_a_hanging_resolver_thread_blocks_nothing(monkeypatch):
    hanging, let_go = threading.Event(), threading.Event()

    def hang(*_):
        hanging.set()
        let_go.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    asking = asyncio.ensure_future(resolve("vllm.example", socket.AF_INET))
    await asyncio.to_thread(hanging.wait, 60)
    (thread,) = [each for each in threading.enumerate() if each.name == "resolve-vllm.example"]
    assert thread.daemon
    asking.cancel()
    await asyncio.wait({asking})
    let_go.set()
    await asyncio.to_thread(thread.join, 60)
    assert not thread.is_alive()
