"""/report.png: the chart of the last session of a target."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from contextlib import asynccontextmanager

import pytest
from aiohttp.test_utils import TestClient, TestServer
from fake_clock import FakeClock
from publish_records import STARTED, TURNS, failed_session, session
from samples_page import publish

from exporter.metrics.history import History
from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.report import drawing
from exporter.report.charts import session_picture
from exporter.web.server import create_app


class Scene:
    """A server whose drawings are counted."""

    def __init__(self, draw=session_picture):
        self.metrics = Metrics()
        self.history = History()
        self.drawn = []
        self._draw = draw

    def draw(self, result):
        self.drawn.append(result)
        return self._draw(result)

    def played(self, result):
        self.metrics.add(TargetState(result.target))
        publish(self.metrics, result)
        self.history.add(result)

    @asynccontextmanager
    async def client(self):
        app = create_app(
            metrics=self.metrics,
            history=self.history,
            clock=FakeClock(unix=STARTED + 60),
            draw=self.draw,
        )
        async with TestClient(TestServer(app)) as client:
            yield client


async def test_the_last_session_is_a_png():
    scene = Scene()
    scene.played(session(*TURNS))
    async with scene.client() as client:
        answer = await client.get("/report.png")
        assert answer.status == 200
        assert answer.content_type == "image/png"
        assert answer.headers["Cache-Control"] == "no-store"
        body = await answer.read()
    assert body.startswith(b"\x89PNG")
    assert 20_000 < len(body) < 300_000


async def test_a_picture_is_drawn_once_for_many_requests():
    scene = Scene(lambda _result: b"picture")
    scene.played(session(*TURNS))
    async with scene.client() as client:
        answers = await asyncio.gather(*(client.get("/report.png") for _ in range(5)))
        assert {answer.status for answer in answers} == {200}
    assert len(scene.drawn) == 1


async def test_a_new_session_is_a_new_picture():
    scene = Scene(lambda result: result.scenario.encode() + b"%d" % len(result.turns))
    async with scene.client() as client:
        scene.played(session(*TURNS))
        assert await (await client.get("/report.png")).read() == b"coding-agent3"
        scene.played(failed_session(*TURNS[:1]))
        assert await (await client.get("/report.png")).read() == b"coding-agent1"


async def test_each_target_has_a_picture_of_its_own():
    scene = Scene(lambda result: result.target.encode())
    for name in ("a", "b"):
        scene.played(session(*TURNS, target=name))
    async with scene.client() as client:
        for name in ("a", "b", "a"):
            answer = await client.get("/report.png", params={"target": name})
            assert await answer.read() == name.encode()
        undecided = await client.get("/report.png")
        unknown = await client.get("/report.png?target=c")
        assert (undecided.status, unknown.status) == (404, 404)
        assert "one of: a, b" in await undecided.text()
        assert "one of: a, b" in await unknown.text()
    assert len(scene.drawn) == 2


async def test_before_the_first_session_the_answer_is_a_sentence():
    scene = Scene()
    scene.metrics.add(TargetState("local"))
    async with scene.client() as client:
        answer = await client.get("/report.png")
        assert answer.status == 404
        assert await answer.text() == "No session with local has ended yet.\n"


async def test_without_matplotlib_the_answer_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    scene = Scene()
    scene.played(session(*TURNS))
    async with scene.client() as client:
        answer = await client.get("/report.png")
        assert answer.status == 404
        assert "pip install 'matplotlib>=3.9'" in await answer.text()


async def test_the_server_answers_while_a_picture_is_drawn():
    loop, drawing_began = asyncio.get_running_loop(), asyncio.Event()
    goes_on = threading.Event()

    def slow(_result):
        loop.call_soon_threadsafe(drawing_began.set)
        assert goes_on.wait(60)
        return b"picture"

    scene = Scene(slow)
    scene.played(session(*TURNS))
    async with scene.client() as client:
        picture = asyncio.create_task(client.get("/report.png"))
        await drawing_began.wait()
        try:
            assert (await client.get("/-/healthy")).status == 200
            assert not picture.done()
        finally:
            goes_on.set()
        assert (await picture).status == 200


def test_no_figure_stays_open(monkeypatch):
    made = []
    figure = drawing.Figure

    def remembered(**options):
        one = figure(**options)
        made.append(weakref.ref(one))
        return one

    monkeypatch.setattr(drawing, "Figure", remembered)
    for _ in range(3):
        session_picture(session(*TURNS))
    gc.collect()
    assert [reference() for reference in made] == [None] * 3


@pytest.mark.parametrize(
    "module", ["exporter.daemon.app", "exporter.cli.run", "exporter.cli.probe.command"]
)
async def test_matplotlib_is_loaded_by_the_first_drawing_only(module):
    code = f"import sys, {module}; sys.exit('matplotlib' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
