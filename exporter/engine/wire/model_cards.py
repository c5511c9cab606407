"""The model cards of /v1/models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from exporter.engine.wire.answer import Json
    from exporter.model.engine import Adapters

    Card = Mapping[str, Any]


def model_cards(page: Json) -> list[Card]:
    """The cards of the page; none where it has no list."""
    data = page.get("data")
    return [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []


def loaded_model(cards: Sequence[Card]) -> str | None:
    """The model that vLLM loaded: `root` of the first card without a parent; None if unknown."""
    roots = [card.get("root") for card in cards if card.get("parent") is None]
    return roots[0] if roots and isinstance(roots[0], str) else None


def with_adapters(model: str, adapters: Adapters, cards: Iterable[Card]) -> tuple[str, ...]:
    """The model and its LoRA adapters; "all" are those whose card names a parent."""
    if adapters == "all":
        found = [str(card.get("id")) for card in cards if isinstance(card.get("parent"), str)]
    else:
        found = list(adapters)
    return tuple(dict.fromkeys((model, *found)))


def context_length(model: str, cards: Iterable[Card]) -> int | None:
    """The context length of a model, in tokens; None if no card has it.

    The card of a LoRA adapter has no length. It has that of its parent, which may be an adapter.
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
