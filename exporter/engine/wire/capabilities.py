"""What the answers of one engine process have shown of how it is to be asked. Pure.

It holds for one process: another one may be another version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.engine.wire.request import OPTIONAL_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from exporter.engine.wire.answer import Json
    from exporter.engine.wire.refusal import Refusal
    from exporter.engine.wire.request import ChatRequest


@dataclass(slots=True)
class Capabilities:
    """`left_out` are the fields that it refused, `contexts` the lengths by model that it named when
    a prompt was too long. `counts_tools`: whether /tokenize is to be given a prompt's tools, which
    vLLM 0.9 counts there although the chat leaves them out (`tool_choice` "none").
    """

    left_out: set[str] = field(default_factory=set)
    contexts: dict[str, int] = field(default_factory=dict)
    counts_tools: bool = True

    @property
    def refuses_salts(self) -> bool:
        return "cache_salt" in self.left_out

    def body(self, request: ChatRequest) -> Json:
        """The JSON object to send, without what it refuses."""
        return {name: each for name, each in request.body().items() if name not in self.left_out}

    def take(self, refusal: Refusal, request: ChatRequest) -> bool:
        """Learn from a refusal; True where the request can be sent again with a field less."""
        if (length := refusal.context_length) is not None:
            self.contexts[request.model] = length
        name = refusal.names(OPTIONAL_FIELDS & self.body(request).keys())
        if name is None:
            return False
        self.left_out.add(name)
        return True


def context_of(model: str, cards: Iterable[Mapping[str, Any]]) -> int | None:
    """The context length of a model by the cards of /v1/models, in tokens.

    The card of a LoRA adapter has none: its length is that of its parent, which may be an adapter's
    itself. None where no card says it.
    """
    by_name = {str(card.get("id")): card for card in cards}
    seen: set[str] = set()
    name: object = model
    while isinstance(name, str) and name in by_name and name not in seen:
        seen.add(name)
        length = by_name[name].get("max_model_len")
        if type(length) is int and length > 0:
            return length
        name = by_name[name].get("parent")
    return None
