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
    from collections.abc import Iterable, Iterator, Mapping

    from exporter.metrics.readers import Family, StateT
    from exporter.metrics.state.exporter import ExporterState
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
            parts = await _joined([_bodies(self._metrics.targets[target], kind)], kind)
        elif not self._metrics.exporter.whole_page:
            parts = await self._with_exporter([], kind)
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
            targets = []
            for name in tuple(self._metrics.targets):
                state = self._metrics.targets.get(name)
                if state is not None:  # not removed meanwhile
                    targets.append(_bodies(state, kind))
                    await asyncio.sleep(0)
            return await _packed(await self._with_exporter(targets, kind), kind)

    async def _with_exporter(self, targets: list[list[str]], kind: PageKind) -> list[bytes]:
        process = kind.writer.foreign(PROCESS, kind.names).encode()
        own = _own_bodies(self._metrics.exporter, kind)
        return [process, *await _joined([own, *targets], kind)]

    async def close(self) -> None:
        """Cancel the pages in progress."""
        tasks = list(self._in_progress.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _heads(kind: PageKind) -> list[str]:
    """The heads of all families. Lists of lines by family have the same order."""
    head = kind.writer.head
    return [
        *(head(family, "target") for family in TARGET_FAMILIES),
        *map(head, EXPORTER_FAMILIES),
        *map(head, LOOP_FAMILIES),
    ]


def _bodies(state: TargetState, kind: PageKind) -> list[str]:
    """The current lines of a target and of its loops, by family."""
    return [
        *_lines(TARGET_FAMILIES, state, kind, state.leading_labels),
        *("" for _ in EXPORTER_FAMILIES),
        *_lines(LOOP_FAMILIES, state.loops, kind),
    ]


def _own_bodies(state: ExporterState, kind: PageKind) -> list[str]:
    return [
        *("" for _ in TARGET_FAMILIES),
        *_lines(EXPORTER_FAMILIES, state, kind),
        *_lines(LOOP_FAMILIES, state.loops, kind),
    ]


def _lines(
    families: Iterable[Family[StateT]],
    state: StateT,
    kind: PageKind,
    leading: Mapping[str, str] | None = None,
) -> Iterator[str]:
    write, names = kind.writer.body, kind.names
    return (write(each, each.reader.read(state), names, leading or {}) for each in families)


async def _joined(by_family: list[list[str]], kind: PageKind) -> list[bytes]:
    """The lines of targets and of the exporter, each family under its head. Families without a
    value are left out.
    """
    page = []
    for head, *lines in zip(_heads(kind), *by_family, strict=True):
        body = "".join(lines)
        if body:
            page.append((head + body).encode())
        if len(lines) > _MANY:
            await asyncio.sleep(0)
    return [*page, kind.writer.end.encode()]


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
