"""Finds the token ids that an engine does not send: a vLLM before 0.10.2, or one behind a proxy.

A prompt's ids come from /tokenize with the same messages and tools, if usage counts as many.
An answer's ids come from its logprobs, where such a vLLM writes them as "token_id:123". They are
requested from the start if the version is that old, otherwise once a stream came without ids.
To encode the answer's text again would not do alone: it may give other ids than those generated. An
incomplete list counts as none, because a parser may swallow chunks together with their ids.

/v1/messages has neither ids nor logprobs. There the answer's text is encoded again, in its place
after the prompt, and its ids are taken only if the stream parted the text at the same places: one
event for each token, of its length. Where the engine put several tokens into one event, or a parser
took some of them out, the ids stay unknown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.model.engine import release
from exporter.model.failure import FailureReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.engine.client.engine_client import EngineClient
    from exporter.engine.wire.request import ChatRequest, Deadlines
    from exporter.model.chat import Chat
    from exporter.probe.engine_requests import ChatSender

_FIRST_WITH_IDS = (10, 2)  # vLLM 0.10.2

Ids = tuple[int, ...]


class TokenIds:
    """Sends requests to one engine, and remembers which of them need logprobs to get ids."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._version: str | None = None
        self._missing = False
        self._refused = False

    def begin(self, version: str | None) -> None:
        """Call before each session. A new version of the engine is judged again by its age."""
        if version != self._version:
            self._version = version
            self._missing, self._refused = _lacks_ids(version), False

    async def send(
        self,
        sender: ChatSender,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None],
    ) -> Chat:
        """Send a request. Returns the answer with every token id that can be known."""
        asks = self._missing and not self._refused and self._client.surface.has_logprobs
        wanted = replace(request, logprobs=asks)
        chat = await sender.chat(wanted, deadlines, on_token)
        if wanted.logprobs and chat.failure is not None:
            self._refused = chat.failure.reason is FailureReason.BAD_REQUEST
            if self._refused:
                chat = await sender.chat(request, deadlines, on_token)
        return await self._complete(request, chat)

    async def _complete(self, request: ChatRequest, chat: Chat) -> Chat:
        if chat.failure is not None:
            return chat
        self._missing = chat.prompt_token_ids is None
        usage, prompt = chat.usage, chat.prompt_token_ids
        cut = request.max_tokens if chat.finish_reason == "length" else None
        answer = _whole(chat.completion_token_ids, usage.completion_tokens if usage else cut)
        if usage is None:
            return replace(chat, completion_token_ids=answer)
        prompt = _whole(prompt, usage.prompt_tokens)
        recovered = prompt is None
        if prompt is None:
            prompt = await self._tokenized(request, usage.prompt_tokens)
        if answer is None and prompt is not None and chat.text_pieces is not None:
            answer = await self._encoded(request, chat, prompt, usage.completion_tokens)
        return replace(
            chat, prompt_token_ids=prompt, completion_token_ids=answer, ids_recovered=recovered
        )

    async def _tokenized(self, request: ChatRequest, count: int) -> Ids | None:
        """The prompt's ids by /tokenize, with or without the tools: whichever gives `count`."""
        capabilities = self._client.capabilities
        for counts_tools in (capabilities.counts_tools, not capabilities.counts_tools):
            tools = request.tools if counts_tools else ()
            ids = await self._client.tokenize(
                request.model, request.messages, tools, request.context
            )
            if ids is not None and len(ids) == count:
                if request.tools:
                    capabilities.counts_tools = counts_tools
                return ids
            if ids is None or not request.tools:
                break
        return None

    async def _encoded(
        self, request: ChatRequest, chat: Chat, prompt: Ids, count: int
    ) -> Ids | None:
        """The ids of an answer of `count` tokens by its text, if they are surely those generated.

        The last one can be that of another end of the answer. It never comes to the cache.
        """
        pieces = chat.text_pieces or ()
        if len(pieces) != (count if chat.finish_reason == "length" else count - 1):
            return None  # the end of an answer that was not cut is a token without text
        tools = request.tools if self._client.capabilities.counts_tools else ()
        found = await self._client.tokenize_answer(request, tools, chat.message)
        if found is None or found[0][: len(prompt)] != prompt:
            return None
        start, end = len(prompt), len(prompt) + count
        whole = _whole(found[0][start:end], count)
        return whole if _same_parts(pieces, found[1][start : start + len(pieces)]) else None


def _same_parts(pieces: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether an answer's text is parted into these tokens, by their lengths.

    A tokenizer writes a token with one character for each of its characters, or for each byte.
    """
    written = list(map(len, texts))
    return written in (list(map(len, pieces)), [len(piece.encode()) for piece in pieces])


def _whole(ids: Ids | None, count: int | None) -> Ids | None:
    return ids if ids is not None and len(ids) == count else None


def _lacks_ids(version: str | None) -> bool:
    """Whether a vLLM of this version is too old for return_token_ids."""
    found = release(version)
    return found is not None and found < _FIRST_WITH_IDS
