"""POST /tokenize, and the token ids of the prompt of every chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.simulator import requests
from exporter.simulator.releases import ages
from exporter.simulator.text import template, tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.simulator.engine import Engine


def prompt_of(
    engine: Engine,
    messages: Sequence[requests.ChatMessage],
    tools: list[dict[str, Any]] | None,
    *,
    generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """The ids of a prompt. If the template refuses it, the request fails with 400, as in vLLM."""
    plain = [message.model_dump(exclude_none=True) for message in messages]
    try:
        return engine.encode_chat(
            plain, tools, generation_prompt=generation_prompt, variables=variables
        )
    except template.RefusedError as exc:
        raise requests.WireError(str(exc)) from exc


def tokenize(engine: Engine, body: object) -> dict[str, Any]:
    """POST /tokenize: the ids of a prompt, or of messages by the chat template."""
    request = requests.parse(requests.TokenizeRequest, body)
    if request.prompt is None and request.messages is None:
        missing = {"type": "missing", "msg": "Field required", "input": body}
        raise requests.invalid(
            [{**missing, "loc": ("body", name)} for name in ("prompt", "messages")]
        )
    requests.check_model(request.model, *engine.models)
    if request.messages is not None:
        known = request.tools and engine.age in ages.TOKENIZED_TOOLS
        ids = prompt_of(
            engine,
            request.messages,
            [tool.model_dump() for tool in request.tools or ()] if known else None,
            generation_prompt=request.add_generation_prompt,
            variables=request.chat_template_kwargs,
        )
    else:
        ids = tokens.encode(request.prompt or "")
    return {
        "count": len(ids),
        "max_model_len": engine.max_model_len,
        "tokens": ids,
        "token_strs": tokens.strings(ids) if request.return_token_strs else None,
    }
