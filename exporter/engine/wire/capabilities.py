"""Which requests one engine process accepts, as its answers have shown.

A new process gets a new one, because it may be another version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.engine.wire.request import OPTIONAL_FIELDS

if TYPE_CHECKING:
    from exporter.engine.wire.answer import Json
    from exporter.engine.wire.refusal import Refusal


@dataclass(slots=True)
class Capabilities:
    """What one engine process accepts.

    `refused` are fields of a request that it refused. `contexts` are the context lengths by model,
    in tokens, that it named when a prompt was too long. `counts_tools`: /tokenize must get a
    prompt's tools. vLLM 0.9 counts them there, although a chat leaves them out (`tool_choice`
    "none").
    """

    refused: set[str] = field(default_factory=set)
    contexts: dict[str, int] = field(default_factory=dict)
    counts_tools: bool = True

    @property
    def refuses_salts(self) -> bool:
        return "cache_salt" in self.refused

    def accepted(self, body: Json) -> Json:
        """The body of a request without the fields that the engine refuses."""
        return {name: each for name, each in body.items() if name not in self.refused}

    def learn(self, refusal: Refusal, body: Json) -> bool:
        """Learn from the refusal of a body; True if it can be sent again with one field less."""
        if (length := refusal.context_length) is not None:
            self.contexts[str(body["model"])] = length
        name = refusal.names(OPTIONAL_FIELDS & self.accepted(body).keys())
        if name is None:
            return False
        self.refused.add(name)
        return True
