"""Compares each turn's prompt with the turn before it.

It sends a request, for the text around the difference, only if there is a difference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from exporter.analysis.loss.stability import Around, TurnPair, around, explain
from exporter.model.session import BreakReason, PrefixBreak, PrefixStability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.model.chat import Chat

_NOT_THE_TEMPLATE = (BreakReason.COMPLETION_REENCODED, BreakReason.ANSWER_LEFT_OUT)

Detokenize = Callable[[Sequence[int]], Awaitable["str | None"]]
"""The text of token ids; None if the engine does not serve /detokenize."""
_Sent = tuple["Chat", list["Mapping[str, Any]"]]
"""A turn, and the messages of its request."""


class PrefixComparison:
    """Compares the prompts of one session, in order.

    Without `answers_kept` the history lacks the engine's answers, so each prompt is compared with
    the prompt before it only.
    """

    def __init__(
        self,
        detokenize: Detokenize,
        tools: Sequence[Mapping[str, Any]],
        *,
        answers_kept: bool = True,
    ) -> None:
        self._detokenize = detokenize
        self._tools = tools
        self._answers_kept = answers_kept
        self._before: _Sent | None = None
        self._compared = 0
        self._unstable: PrefixBreak | None = None
        self._in_answer: PrefixBreak | None = None

    async def turn(
        self, turn: Chat, messages: Sequence[Mapping[str, Any]]
    ) -> PrefixStability | None:
        """Compare a finished turn with the one before. `messages` are those of its request.

        Returns what all turns so far show; None while no two in a row have their token ids.
        """
        before, self._before = self._before, (turn, list(messages))
        pair = _pair(before[0], turn, answers_kept=self._answers_kept) if before else None
        if before is not None and pair is not None:
            await self._compare(pair, before, messages)
        if not self._compared:
            return None
        return PrefixStability(
            stable=self._unstable is None,
            turns_compared=self._compared,
            first_break=self._unstable or self._in_answer,
        )

    async def _compare(
        self, pair: TurnPair, before: _Sent, messages: Sequence[Mapping[str, Any]]
    ) -> None:
        turn, earlier = before
        index = pair.first_difference()
        whole = not self._answers_kept or turn.completion_token_ids is not None
        if index is None and not whole:
            return  # the answer's ids are unknown, and the prompt may differ from them
        self._compared += 1
        if index is None or self._unstable is not None:
            return
        text = await self._text(around(pair, index))
        wordless = self._answers_kept and _wordless(messages[len(earlier) :])
        found = explain(pair, index, text, earlier, self._tools, wordless=wordless)
        if found.reason in _NOT_THE_TEMPLATE:
            self._in_answer = self._in_answer or found
        else:
            self._unstable = found

    async def _text(self, ids: Around) -> Around | None:
        texts = [await self._detokenize(part) for part in (ids.before, ids.earlier, ids.later)]
        return None if None in texts else Around(*texts)


def _wordless(since: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the answer, the first of the new messages, has neither text nor a tool call."""
    answer = since[0] if since else {}
    said = str(answer.get("content") or "").strip() or answer.get("tool_calls")
    return answer.get("role") == "assistant" and not said


def _pair(before: Chat, turn: Chat, *, answers_kept: bool) -> TurnPair | None:
    if before.prompt_token_ids is None or turn.prompt_token_ids is None:
        return None
    answer = before.completion_token_ids if answers_kept else None
    return TurnPair(
        turn=turn.index,
        prompt=before.prompt_token_ids,
        completion=() if answer is None else answer[:-1],
        later=turn.prompt_token_ids,
    )
