"""/metrics: the page of one target, of the exporter itself, or the whole page.

The page of one target is made in one step. The whole page takes one step for each target, which
reads all families of that target, and other tasks run between two steps. Then the lines are joined
by family. Requests that arrive while a whole page is being made share it.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from exporter.metrics.families.tables import (
    EXPORTER_FAMILIES,
    LOOP_FAMILIES,
    PROCESS,
    TARGET_FAMILIES,
)
from exporter.metrics.writer import Writer, writer_for
from exporter.web.parameters import BadRequestError, NoSuchTargetError, asked_target

if TYPE_CHECKING:
    from exporter.metrics.state.target import TargetState
    from exporter.metrics.store import Metrics
    from exporter.metrics.writer import Names

_LARGE = 1 << 18
"""Bytes from which a thread compresses a page: a smaller one takes less than 1 ms."""

_MANY = 100
"""Targets from which other tasks run after the lines of a family are joined."""
_LEVEL, _GZIP = 5, zlib.MAX_WBITS | 16
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


class PageKind(NamedTuple):
    """Requests of the same kind get the same page."""

    writer: Writer
    names: Names
    gzip: bool


class MetricsPage:
    """Answers /metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._in_progress: dict[PageKind, asyncio.Task[bytes]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def answer(self, request: web.Request) -> web.Response:
        """Prometheus text or OpenMetrics, by the header Accept; `name[]` selects series by name."""
        try:
            target = asked_target(request, self._metrics.targets)
        except BadRequestError as error:
            status = 404 if isinstance(error, NoSuchTargetError) else 400
            return web.Response(status=status, text=f"{error}\n")
        writer, content_type = writer_for(",".join(request.headers.getall("Accept", [])))
        picked = request.query.getall("name[]", [])
        kind = PageKind(writer, frozenset(picked) if picked else None, _accepts_gzip(request))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if kind.gzip:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=await self.page(target, kind), headers=headers)

    async def page(self, target: str | None, kind: PageKind) -> bytes:
        """The page of an existing target; without one the whole page or that of the exporter."""
        if target is not None:
            parts = _of_target(self._metrics.targets[target], kind)
        elif not self._metrics.exporter.whole_page:
            parts = await self._joined(_no_lines(), kind)
        else:
            return await self._shared(kind)
        return await _packed(parts, kind)

    async def _shared(self, kind: PageKind) -> bytes:
        task = self._in_progress.get(kind)
        if task is None:
            task = asyncio.create_task(self._whole(kind), name="whole page")
            self._in_progress[kind] = task
            task.add_done_callback(lambda _: self._in_progress.pop(kind, None))
        return await asyncio.shield(task)  # a client that disconnects does not cancel it

    async def _whole(self, kind: PageKind) -> bytes:
        async with self._one_at_a_time:
            bodies = _no_lines()
            for name in tuple(self._metrics.targets):
                state = self._metrics.targets.get(name)
                if state is not None:  # not removed meanwhile
                    for parts, body in zip(bodies, _bodies(state, kind), strict=True):
                        parts.append(body)
                    await asyncio.sleep(0)
            return await _packed(await self._joined(bodies, kind), kind)

    async def _joined(self, bodies: list[list[str]], kind: PageKind) -> list[bytes]:
        """The lines of the targets and of the exporter, each family under its head."""
        about_targets, about_loops = bodies[: len(TARGET_FAMILIES)], bodies[len(TARGET_FAMILIES) :]
        page = [kind.writer.foreign(PROCESS, kind.names).encode()]
        for family, lines in zip(TARGET_FAMILIES, about_targets, strict=True):
            head = kind.writer.head(family, "target")
            page.append(_under(head, "".join(lines)))
            if len(lines) > _MANY:
                await asyncio.sleep(0)
        page += self._of_exporter(kind)
        for about, own, lines in zip(
            LOOP_FAMILIES, self._own_loops(kind), about_loops, strict=True
        ):
            page.append(_under(kind.writer.head(about), own + "".join(lines)))
        return [*page, kind.writer.end.encode()]

    def _of_exporter(self, kind: PageKind) -> list[bytes]:
        state, writer = self._metrics.exporter, kind.writer
        return [
            _under(writer.head(family), writer.body(family, family.reader.read(state), kind.names))
            for family in EXPORTER_FAMILIES
        ]

    def _own_loops(self, kind: PageKind) -> list[str]:
        loops = self._metrics.exporter.loops
        return [
            kind.writer.body(each, each.reader.read(loops), kind.names) for each in LOOP_FAMILIES
        ]

    async def close(self) -> None:
        """Cancel the pages in progress."""
        tasks = list(self._in_progress.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _no_lines() -> list[list[str]]:
    """For the lines of targets, by family."""
    return [[] for _ in (*TARGET_FAMILIES, *LOOP_FAMILIES)]


def _bodies(state: TargetState, kind: PageKind) -> list[str]:
    """The current lines of a target, by family, and those of its loops."""
    write, names = kind.writer.body, kind.names
    return [
        *(
            write(family, family.reader.read(state), names, target=state.name)
            for family in TARGET_FAMILIES
        ),
        *(write(family, family.reader.read(state.loops), names) for family in LOOP_FAMILIES),
    ]


def _of_target(state: TargetState, kind: PageKind) -> list[bytes]:
    heads = (
        *(kind.writer.head(family, "target") for family in TARGET_FAMILIES),
        *(kind.writer.head(family) for family in LOOP_FAMILIES),
    )
    page = [_under(head, body) for head, body in zip(heads, _bodies(state, kind), strict=True)]
    return [*page, kind.writer.end.encode()]


def _under(head: str, body: str) -> bytes:
    """A family with its head; nothing where it has no value."""
    return (head + body).encode() if body else b""


async def _packed(parts: list[bytes], kind: PageKind) -> bytes:
    if not kind.gzip:
        return b"".join(parts)
    if sum(map(len, parts)) < _LARGE:
        return zlib.compress(b"".join(parts), _LEVEL, _GZIP)
    return await asyncio.to_thread(_compressed, parts)


def _compressed(parts: list[bytes]) -> bytes:
    pack = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return b"".join([*map(pack.compress, parts), pack.flush()])


def _accepts_gzip(request: web.Request) -> bool:
    """RFC 9110, 12.5.3: the weight of a named coding; `*` stands for those that are not named."""
    weights = dict[str, float]()
    for offer in ",".join(request.headers.getall("Accept-Encoding", [])).split(","):
        coding, *parameters = (part.strip().lower() for part in offer.split(";"))
        weights[coding] = _weight(parameters)
    gzip = weights.get("gzip", weights.get("*", 0.0))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _weight(parameters: list[str]) -> float:
    """1 where none is given, 0 where it is malformed: then the page is not compressed."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if _WEIGHT.fullmatch(value.strip()) else 0.0
    return 1.0
