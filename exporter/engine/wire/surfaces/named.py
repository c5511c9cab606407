"""The surfaces by the names of the setting `probe.api`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.engine.wire.surfaces import chat_completions, messages, responses

if TYPE_CHECKING:
    from exporter.engine.wire.surfaces.surface import Surface

CHAT_COMPLETIONS = chat_completions.SURFACE.name
SURFACES: dict[str, Surface] = {
    each.SURFACE.name: each.SURFACE for each in (chat_completions, messages, responses)
}
