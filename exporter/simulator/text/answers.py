"""The simulated model's answers: the same prompt gets the same answer, planned in full."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any

from exporter.simulator.text import template, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_VOCABULARY = (
    "the a this that each every next last first second file function test cache block token prefix"
    " turn session request answer server engine model value result error line path name list order"
    " number check change read write open close build run start stop wait keep drop find compare"
    " return call send receive count measure update remove add move split join before after while"
    " when because then again still already only both same other new old small large short long"
    " slow fast empty full stable known missing correct broken"
)
_WORDS = tuple(_VOCABULARY.split())


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `deltas` has one entry per token: what a stream sends for it, or None."""

    token_ids: tuple[int, ...]
    deltas: tuple[dict[str, Any] | None, ...]
    content: str | None
    tool_calls: tuple[dict[str, Any], ...]
    finish_reason: str
    stop_reason: str | None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of a request. With `seed` None (greedy) only the prompt decides.

    A parser removes the first `swallowed` tokens. With `all_reasoning` the whole answer is
    reasoning, until the length limit.
    """

    max_tokens: int
    usual_tokens: int
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    seed: str | None = None
    forced_tool: Mapping[str, Any] | None = None
    named_tool: bool = False  # OpenAI ends a call of a named tool with "stop"
    swallowed: int = 0
    all_reasoning: bool = False


def plan(prompt_ids: Sequence[int], wish: Wish) -> Answer:
    """The answer to a prompt."""
    random = Random(_digest(prompt_ids, wish.seed))
    if wish.forced_tool is not None:
        return _tool_call(random, wish)
    return _text(random, wish)


def _text(random: Random, wish: Wish) -> Answer:
    natural = random.randint(max(1, wish.usual_tokens // 2), wish.usual_tokens)
    if wish.all_reasoning:
        natural = wish.max_tokens
    length = wish.max_tokens if wish.ignore_eos else min(wish.max_tokens, natural)
    ids: list[int] = []
    for word in _words(random):
        ids.extend(tokens.encode(" " + word))
        if len(ids) >= length:
            break
    ids = ids[:length]
    ended = not wish.ignore_eos and natural < wish.max_tokens
    if ended:
        ids.append(tokens.IM_END)
    pieces = [tokens.decode([number], special=False) for number in ids]
    pieces, hit = _stop_at(pieces, wish.stop)
    finish = "stop" if hit is not None or ended else "length"
    text = "".join(pieces[min(wish.swallowed, len(pieces) - 1) :])
    name = "reasoning" if wish.all_reasoning else "content"
    return Answer(
        token_ids=tuple(ids[: len(pieces)]),
        deltas=tuple(
            None if place < wish.swallowed else {name: piece} for place, piece in enumerate(pieces)
        ),
        content=None if wish.all_reasoning else text,
        reasoning=text if wish.all_reasoning else None,
        tool_calls=(),
        finish_reason=finish,
        stop_reason=hit,
    )


def _stop_at(pieces: list[str], stop: tuple[str, ...]) -> tuple[list[str], str | None]:
    """Cut at the first stop string, and hold back a possible start of one, as vLLM does."""
    if not stop:
        return pieces, None
    held = max(map(len, stop)) - 1
    shown: list[str] = []
    text, sent = "", 0
    for piece in pieces:
        before = len(text)
        text += piece
        found = [
            (text.find(end, max(0, before - len(end) + 1)), end) for end in stop if end in text
        ]
        if found:
            place, end = min(found)
            return [*shown, text[sent:place]], end
        upto = max(sent, len(text) - held)
        shown.append(text[sent:upto])
        sent = upto
    if shown:
        shown[-1] += text[sent:]
    return shown, None


def _tool_call(random: Random, wish: Wish) -> Answer:
    assert wish.forced_tool is not None  # noqa: S101 - plan() asked
    name = str(wish.forced_tool.get("name", ""))
    arguments = _arguments(random, wish.forced_tool.get("parameters") or {})
    ids = tokens.encode(template.tool_call_text(name, arguments))
    whole = len(ids) < wish.max_tokens
    ids = [*ids, tokens.IM_END] if whole else ids[: wish.max_tokens]
    call_id = f"chatcmpl-tool-{random.getrandbits(64):016x}"
    finish = ("stop" if wish.named_tool else "tool_calls") if whole else "length"
    call = {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
    }
    return Answer(
        token_ids=tuple(ids),
        deltas=tuple(_tool_deltas(ids, call_id)),
        content="" if whole else tokens.decode(ids),
        tool_calls=(call,) if whole else (),
        finish_reason=finish,
        stop_reason=None,
    )


def _tool_deltas(ids: Sequence[int], call_id: str) -> Iterator[dict[str, Any] | None]:
    """Per token, what vLLM's hermes parser streams: the name once, then parts of the arguments."""
    text, named, sent = "", False, ""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character can have several ids
    for number in ids:
        text += decoder.decode(tokens.to_bytes(number))
        body = text.removeprefix("<tool_call>").split("</tool_call>")[0]
        call: dict[str, Any] | None = None
        if not named and (name := re.search(r'"name"\s*:\s*"([^"]+)"', body)):
            named = True
            call = {
                "id": call_id,
                "type": "function",
                "index": 0,
                "function": {"name": name.group(1)},
            }
        elif named and (arguments := _arguments_so_far(body)) and len(arguments) > len(sent):
            call = {"index": 0, "function": {"arguments": arguments[len(sent) :]}}
            sent = arguments
        yield None if call is None else {"content": None, "tool_calls": [call]}


def _arguments_so_far(body: str) -> str:
    found = re.search(r'"arguments"\s*:\s*', body)
    if found is None:
        return ""
    raw = body[found.end() :]
    try:
        json.loads(body)
    except json.JSONDecodeError:
        return raw
    return raw.rstrip().removesuffix("}").rstrip()  # the last brace closes the call around them


def _arguments(random: Random, schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    wanted = schema.get("required") or list(properties)
    return {str(name): _value(random, properties.get(name) or {}) for name in wanted}


def _value(random: Random, schema: Mapping[str, Any]) -> object:
    if choices := schema.get("enum"):
        return random.choice(choices)
    match schema.get("type"):
        case "integer" | "number":
            return random.randint(1, 99)
        case "boolean":
            return random.random() < 0.5  # noqa: PLR2004 - a coin
        case "array":
            return [_value(random, schema.get("items") or {})]
        case "object":
            return _arguments(random, schema)
        case _:
            return " ".join(random.choice(_WORDS) for _ in range(2))


def _words(random: Random) -> Iterator[str]:
    while True:
        yield random.choice(_WORDS)


def _digest(prompt_ids: Sequence[int], seed: str | None) -> bytes:
    text = ",".join(map(str, prompt_ids)) + ("" if seed is None else f"/{seed}")
    return blake2b(text.encode(errors="replace"), digest_size=16).digest()
