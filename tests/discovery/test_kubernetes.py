"""The source of pods against an API server: list, watch, and what breaks them."""

from __future__ import annotations

import asyncio
import time

import pytest
from fake_clock import FakeClock
from fake_kubernetes import FakeKubernetes, pod_object

from exporter.clock import SystemClock
from exporter.config import KubernetesDiscovery
from exporter.discovery.kubernetes import api, pod_watch
from exporter.discovery.kubernetes.pod_source import KubernetesSource
from exporter.discovery.targets.records import DiscoveryError, DiscoveryFailure

PATIENCE = 20.0  # seconds; enough for steps of milliseconds


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(pod_watch, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(pod_watch, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(pod_watch, "STEADY_SECONDS", 0.0)


@pytest.fixture
async def cluster():
    async with FakeKubernetes() as at:
        yield at


class Looking:
    """A source, and what it finds."""

    def __init__(self, cluster: FakeKubernetes, clock=None, **settings) -> None:
        facts = {"namespaces": ["vllm"], "api_url": cluster.url} | settings
        self.source = KubernetesSource(KubernetesDiscovery(**facts), clock or SystemClock())

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.source.close()

    async def names(self) -> list[str]:
        return [each.name for each in (await self.source.query()).targets]

    async def until(self, *names: str) -> None:
        await eventually(lambda: self._finds(names), f"{names} are found")

    async def _finds(self, names) -> bool:
        try:
            return await self.names() == [f"vllm.{each}" for each in names]
        except DiscoveryError:
            return False

    async def failure(self, reason: DiscoveryFailure) -> str:
        """The text of the failure for which queries fail, now or soon."""
        found = []

        async def fails() -> bool:
            try:
                await self.source.query()
            except DiscoveryError as error:
                found.append(error)
            return bool(found)

        await eventually(fails, "a query fails")
        assert found[0].reason == reason
        return found[0].detail


async def eventually(true, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {PATIENCE:g} s: {what}")
        await asyncio.sleep(0.01)


async def watched(cluster: FakeKubernetes, times: int) -> None:
    async def seen() -> bool:
        return len(cluster.seen("watch")) >= times and cluster.watchers > 0

    await eventually(seen, f"{times} watches were opened")


async def test_the_pods_with_the_label_are_found_and_no_others(cluster):
    await cluster.put(pod_object("a"))
    await cluster.put(pod_object("b", labels={"io.vllm-cache-exporter.scrape": "false"}))
    await cluster.put(pod_object("c", "elsewhere"))
    async with Looking(cluster) as at:
        assert await at.names() == ["vllm.a"]


async def test_a_new_pod_comes_a_changed_one_changes_and_a_deleted_one_goes(cluster):
    async with Looking(cluster) as at:
        assert await at.names() == []
        await cluster.put(pod_object("a", phase="Pending", ip=""))
        await cluster.put(pod_object("b", ip="127.0.0.3"))
        await at.until("b")
        await cluster.put(pod_object("a", ready=False))
        await at.until("a", "b")
        await cluster.put(pod_object("b", ip="127.0.0.3", terminating=True))
        await at.until("a")
        await cluster.delete("b")
        await cluster.put(pod_object("a", labels={"io.vllm-cache-exporter.scrape": "no"}))
        await at.until()
        assert len(cluster.seen("list")) == 1


async def test_a_list_of_many_pages_is_read_to_its_end(cluster):
    for number in range(7):
        await cluster.put(pod_object(f"p{number}"))
    cluster.page_limit = 2
    async with Looking(cluster) as at:
        assert len(await at.names()) == 7
    lists = cluster.seen("list")
    assert [("continue" in each) for each in lists] == [False, True, True, True]
    assert {each["labelSelector"] for each in lists} == {"io.vllm-cache-exporter.scrape=true"}


async def test_a_list_whose_pages_expire_begins_again(cluster, monkeypatch):
    for number in range(4):
        await cluster.put(pod_object(f"p{number}"))
    cluster.page_limit = 2
    answer, broken = cluster._list, []

    def once(request, *rest):
        if "continue" in request.query and not broken:
            broken.append(request)
            cluster.version += 1
            cluster.forget()
        return answer(request, *rest)

    monkeypatch.setattr(cluster, "_list", once)
    async with Looking(cluster) as at:
        await at.until("p0", "p1", "p2", "p3")
    assert broken


async def test_a_watch_that_ends_continues_after_the_last_version_without_a_list(
    cluster, monkeypatch
):
    monkeypatch.setattr(api, "WATCH_SECONDS", 0.2)
    await cluster.put(pod_object("a"))
    async with Looking(cluster) as at:
        await at.until("a")
        await watched(cluster, 1)
        await cluster.bookmark()
        await watched(cluster, 3)
        await cluster.put(pod_object("b"))
        await at.until("a", "b")
    assert len(cluster.seen("list")) == 1
    versions = [each["resourceVersion"] for each in cluster.seen("watch")]
    assert versions[0] == "1001"
    assert "1002" in versions, "the bookmark's version"
    assert {each["allowWatchBookmarks"] for each in cluster.seen("watch")} == {"true"}


@pytest.mark.parametrize("by_status", [False, True], ids=["an event", "a status"])
async def test_a_forgotten_version_leads_to_a_new_list_that_shows_what_was_missed(
    cluster, by_status
):
    cluster.expires_by_status = by_status
    await cluster.put(pod_object("a"))
    await cluster.put(pod_object("b"))
    async with Looking(cluster) as at:
        await at.until("a", "b")
        await watched(cluster, 1)
        await cluster.stop()
        await cluster.delete("a")
        await cluster.put(pod_object("c"))
        cluster.forget()
        await cluster.start()
        await at.until("b", "c")
    assert len(cluster.seen("list")) == 2


async def test_a_stream_that_breaks_in_a_line_continues_and_loses_nothing(cluster):
    await cluster.put(pod_object("a"))
    async with Looking(cluster) as at:
        await at.until("a")
        for name in ("b", "c"):
            await watched(cluster, 1)
            cluster.cut()
            await cluster.put(pod_object(name))
            await at.until(*"abc"[: "abc".index(name) + 1])
    assert len(cluster.seen("list")) == 1


async def test_a_break_of_a_watch_that_stood_is_no_failure(cluster):
    await cluster.put(pod_object("a"))
    async with Looking(cluster) as at:
        await at.until("a")
        for count in range(1, 4):
            await watched(cluster, count)
            cluster.cut()
            while len(cluster.seen("watch")) == count:
                assert await at.names() == ["vllm.a"]
                await asyncio.sleep(0)


async def test_watches_that_break_at_once_are_a_failure(cluster, monkeypatch):
    monkeypatch.setattr(pod_watch, "STEADY_SECONDS", 10.0)
    async with Looking(cluster) as at:
        await at.names()
        await watched(cluster, 1)
        cluster.cut()
        await at.failure(DiscoveryFailure.UNREACHABLE)


async def test_while_the_api_is_away_queries_fail_and_afterwards_the_pods_are_current(cluster):
    await cluster.put(pod_object("a"))
    async with Looking(cluster) as at:
        await at.until("a")
        await watched(cluster, 1)
        await cluster.stop()
        text = await at.failure(DiscoveryFailure.UNREACHABLE)
        assert text == f"nothing listens at {cluster.url}"
        await cluster.put(pod_object("b"))
        await cluster.start()
        await at.until("a", "b")


class PausesClock(FakeClock):
    """Keeps the length of each sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await super().sleep(seconds)


async def test_attempts_are_made_less_and_less_often(cluster, monkeypatch):
    monkeypatch.setattr(pod_watch, "FIRST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(pod_watch, "LONGEST_PAUSE_SECONDS", 30.0)
    monkeypatch.setattr(pod_watch, "STEADY_SECONDS", 10.0)
    cluster.away = True
    clock = PausesClock()
    wanted = [1, 2, 4, 8, 16, 30, 30]
    async with Looking(cluster, clock) as at:
        for _ in wanted:
            with pytest.raises(DiscoveryError):
                await at.names()
            await clock.until_asleep()
            await clock.advance(clock.pauses[-1])
    assert [0.75 * w <= p <= 1.25 * w for w, p in zip(wanted, clock.pauses, strict=False)] == [
        True
    ] * len(wanted)


async def test_a_watch_that_says_nothing_for_too_long_is_opened_again(cluster, monkeypatch):
    monkeypatch.setattr(api, "_WATCH_TIMEOUT", api.aiohttp.ClientTimeout(total=0.3))
    async with Looking(cluster) as at:
        await at.until()
        await watched(cluster, 2)
        await cluster.put(pod_object("a"))
        await at.until("a")


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_a_missing_right_is_named_with_verb_and_namespace(cluster, verb):
    cluster.forbidden = {(verb, "vllm")}
    async with Looking(cluster) as at:
        text = await at.failure(DiscoveryFailure.PERMISSION_DENIED)
        assert f'cannot {verb} resource "pods"' in text
        assert text.endswith(
            "grant get, list and watch on pods in the namespace vllm, by a Role and a RoleBinding"
        )
        cluster.forbidden.clear()
        await at.until()


async def test_every_namespace_needs_a_cluster_role(cluster):
    await cluster.put(pod_object("a"))
    await cluster.put(pod_object("a", "other"))
    cluster.forbidden = {("list", "*")}
    async with Looking(cluster, namespaces=["*"]) as at:
        assert "ClusterRole" in await at.failure(DiscoveryFailure.PERMISSION_DENIED)
        cluster.forbidden.clear()

        async def both() -> bool:
            try:
                return await at.names() == ["other.a", "vllm.a"]
            except DiscoveryError:
                return False

        await eventually(both, "pods of both namespaces are found")


async def test_several_namespaces_have_a_watch_each_and_one_that_fails_fails_the_query(cluster):
    await cluster.put(pod_object("a"))
    await cluster.put(pod_object("a", "other"))
    async with Looking(cluster, namespaces=["vllm", "other"]) as at:
        assert await at.names() == ["other.a", "vllm.a"]
        await cluster.put(pod_object("b", "other"))

        async def three() -> bool:
            return await at.names() == ["other.a", "other.b", "vllm.a"]

        await eventually(three, "the new pod is found")
    cluster.forbidden = {("list", "other")}
    async with Looking(cluster, namespaces=["vllm", "other"]) as at:
        assert "namespace other" in await at.failure(DiscoveryFailure.PERMISSION_DENIED)


async def test_a_wrong_selector_is_reported_with_the_words_of_the_api(cluster):
    async with Looking(cluster, label_selector="app=x,&") as at:
        text = await at.failure(DiscoveryFailure.API_ERROR)
    assert text == "HTTP 400: unable to parse requirement: found '&', expected: identifier"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>sign in</html>", "it is no JSON object; is the URL that of the cluster's API?"),
        (b"[]", "it is no JSON object"),
        (b"{}", "it is no list of pods"),
        (b'{"metadata": {}, "items": [1]}', "a pod cannot be read: it is no object"),
        (b'{"metadata": {}, "items": {}}', "it is no list of pods"),
        (b"[" * 100_000, "it is no JSON object"),
    ],
)
async def test_an_answer_that_is_no_list_of_pods_is_reported(cluster, monkeypatch, body, words):
    def other(*_):
        return api.aiohttp.web.Response(body=body)

    async def answer(_request):
        return other()

    monkeypatch.setattr(cluster, "_answer", answer)
    await cluster.stop()
    await cluster.start()
    async with Looking(cluster) as at:
        assert words in await at.failure(DiscoveryFailure.API_ERROR)


async def test_a_redirect_is_not_followed(cluster, monkeypatch):
    async def elsewhere(_request):
        raise api.aiohttp.web.HTTPFound("http://127.0.0.1:9/")

    monkeypatch.setattr(cluster, "_answer", elsewhere)
    await cluster.stop()
    await cluster.start()
    async with Looking(cluster) as at:
        assert (await at.failure(DiscoveryFailure.API_ERROR)).startswith("HTTP 302")


async def test_an_unexpected_exception_ends_the_watch_once_and_the_next_query_starts_it(
    cluster, monkeypatch
):
    await cluster.put(pod_object("a"))
    list_pods, failed = api.KubernetesApi.list_pods, []

    async def once(self, namespace):
        if not failed:
            failed.append(namespace)
            raise RuntimeError("unexpected")
        return await list_pods(self, namespace)

    monkeypatch.setattr(api.KubernetesApi, "list_pods", once)
    async with Looking(cluster) as at:
        with pytest.raises(RuntimeError, match="unexpected"):
            await at.names()
        assert await at.names() == ["vllm.a"]


async def test_a_closed_source_leaves_no_task_and_no_connection(cluster):
    before = asyncio.all_tasks()
    async with Looking(cluster) as at:
        await at.names()
        await watched(cluster, 1)

    async def none() -> bool:
        return cluster.watchers == 0 and not {
            each for each in asyncio.all_tasks() - before if "watch-pods" in each.get_name()
        }

    await eventually(none, "the watch is over")
