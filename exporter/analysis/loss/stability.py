"""Whether each prompt begins with the turn before it; if not, where and why the two differ.

Exact-prefix caching needs a chat template that only appends: the text of earlier messages must not
change. The token ids of two turns in a row show whether it changed. The text around the first
difference shows the message that changed and, mostly, what the template did to it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.analysis.reuse.cache_math import common_prefix
from exporter.model.session import BreakReason, PrefixBreak

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Tokens = tuple[int, ...]

BEFORE_TOKENS, AFTER_TOKENS = 16, 48
_RESYNC_REACH = 64
"""Tokens: a changed value is shorter. Text that is found further away was moved."""
_RESYNC_RUN = 16
"""Equal tokens in a row that prove the same text, and not chance."""
_ANSWER_START = 4
"""The most tokens that a template writes between the generation prompt and the reasoning."""
_GENERATION_PROMPT = 12
"""The most tokens of a generation prompt, with the mark that begins the reasoning."""
_PIECE, _SHORTEST_PIECE = 24, 12
"""Characters of the pieces of a text that are searched for in the messages."""
_REASONING_OPENS = re.compile(r"\s*(<think>|\[THINK\]|<\|channel\|>analysis|<reasoning>)")
_TOOLS = "tools"


@dataclass(frozen=True, slots=True)
class TurnPair:
    """A turn's prompt and completion, and the `later` prompt, that of turn number `turn`.

    `completion` is without its last token, because vLLM never computes the keys and values of that.
    """

    turn: int
    prompt: Tokens
    completion: Tokens
    later: Tokens

    @property
    def sequence(self) -> Tokens:
        return self.prompt + self.completion

    def first_difference(self) -> int | None:
        """The index of the first difference between this turn and the later prompt, if any."""
        common = common_prefix(self.sequence, self.later)
        return None if common == len(self.sequence) else common


@dataclass(frozen=True, slots=True)
class Around:
    """The ids or the text before a difference (the same in both) and after it (in each)."""

    before: Any
    earlier: Any
    later: Any


def around(pair: TurnPair, index: int) -> Around:
    """The token ids around a difference, enough for a reader."""
    return Around(
        pair.sequence[max(0, index - BEFORE_TOKENS) : index],
        pair.sequence[index : index + AFTER_TOKENS],
        pair.later[index : index + AFTER_TOKENS],
    )


def explain(
    pair: TurnPair,
    index: int,
    text: Around | None,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    *,
    wordless: bool = False,
) -> PrefixBreak:
    """The record of a difference. `messages` are those of the earlier request.

    `text` is `around` as text, or None if the engine has no /detokenize: then the message is
    unknown, and the reason follows from the ids alone. `wordless`: the history keeps neither text
    nor a tool call of the earlier answer.
    """
    place = _locate(text.earlier, messages, tools) if text else None
    later_place = _locate(text.later, messages, tools) if text else None
    if index >= len(pair.prompt):
        place = (len(messages) + 1, "assistant")
    return PrefixBreak(
        turn=pair.turn,
        token_index=index,
        sequence_tokens=len(pair.sequence),
        reason=_answer_reason(pair, index, text, place, wordless=wordless)
        or _reason(pair, index, place, later_place),
        message=place[0] if place else None,
        role=place[1] if place else None,
        before=text.before if text else None,
        earlier=text.earlier if text else None,
        later=text.later if text else None,
    )


Place = tuple[int | None, str]
"""A message's number (1…) and role; tools have no number."""


def _answer_reason(
    pair: TurnPair, index: int, text: Around | None, place: Place | None, *, wordless: bool
) -> BreakReason | None:
    """The reason if the difference is in the answer, or at the start of its reasoning."""
    opens_reasoning = text is not None and bool(_REASONING_OPENS.match(text.earlier))
    opens_reasoning = opens_reasoning and (place is None or place[1] == "assistant")
    begins = -_GENERATION_PROMPT <= index - len(pair.prompt) <= _ANSWER_START
    if wordless and (opens_reasoning or begins):
        return BreakReason.ANSWER_LEFT_OUT
    if opens_reasoning:
        return BreakReason.REASONING_STRIPPED
    if index < len(pair.prompt):
        return None
    stripped = _answer_start_left_out(pair, index)
    return BreakReason.REASONING_STRIPPED if stripped else BreakReason.COMPLETION_REENCODED


def _reason(pair: TurnPair, index: int, place: Place | None, later: Place | None) -> BreakReason:
    role = place[1] if place else None
    moved = _is_further_on(pair, index)
    if role == "system" and (moved or (later is not None and later[1] != role)):
        return BreakReason.SYSTEM_PROMPT_MOVED
    if role == _TOOLS and (moved or later is not None):
        return BreakReason.TOOLS_REORDERED
    if _same_again(pair, index):
        return BreakReason.VALUE_CHANGED
    return BreakReason.HISTORY_REWRITTEN


def _answer_start_left_out(pair: TurnPair, index: int) -> bool:
    """Whether the later prompt leaves out the start of the answer and goes on with the rest."""
    if index > len(pair.prompt) + _ANSWER_START:
        return False
    run = pair.later[index : index + _RESYNC_RUN // 2]
    return _find(pair.sequence, run, index + 1) is not None


def _is_further_on(pair: TurnPair, index: int) -> bool:
    """Whether the earlier turn's next text is in the later prompt, but further on."""
    skip = 4  # the tokens at the difference may be split in another way
    run = pair.sequence[index + skip : index + skip + _RESYNC_RUN]
    found = _find(pair.later, run, index)
    return found is not None and found > index + _RESYNC_REACH


def _same_again(pair: TurnPair, index: int) -> bool:
    """Whether both are the same again after a few tokens that differ."""
    sequence, later = pair.sequence, pair.later
    runs = {sequence[index + gap : index + gap + _RESYNC_RUN]: gap for gap in range(_RESYNC_REACH)}
    return any(
        len(run := later[index + gap : index + gap + _RESYNC_RUN]) == _RESYNC_RUN and run in runs
        for gap in range(_RESYNC_REACH)
    )


def _find(tokens: Tokens, run: Tokens, start: int) -> int | None:
    """The first index of `run` from `start` on; None if it is not there, or too short to tell."""
    length = len(run)
    if length < _RESYNC_RUN // 2:
        return None
    places = range(start, len(tokens) - length + 1)
    return next((place for place in places if tokens[place : place + length] == run), None)


def _locate(
    text: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> Place | None:
    """The message, or the tools, that contain the first piece of `text` found in any of them."""
    listed = _squashed(json.dumps(list(tools), ensure_ascii=False))
    for piece in _pieces(text):
        for number, message in enumerate(messages, start=1):
            if piece in _content(message):
                return number, str(message.get("role"))
        squashed = _squashed(piece)
        if len(squashed) >= _SHORTEST_PIECE and squashed in listed:
            return None, _TOOLS
    return None


def _pieces(text: str) -> Iterator[str]:
    for start in range(max(0, len(text) - _SHORTEST_PIECE + 1)):
        piece = text[start : start + _PIECE]
        if len(piece.strip()) >= _SHORTEST_PIECE:
            yield piece


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _squashed(text: str) -> str:
    """Without white space, because each template prints JSON in its own way."""
    return re.sub(r"\s+", "", text)
