"""Token ids from an engine that does not send them: a vLLM before 0.10.2, or a proxy in between.

A prompt's ids are those of /tokenize for the same messages and tools, if they are as many as usage
counted. An answer's are in its logprobs, which such a vLLM writes as "token_id:123" when asked:
from the start where its version says that it is that old, else once a stream came without ids.
Encoding the answer's text anew would not tell them: it may encode to others than those that were
generated. A list that is not whole counts as none: a parser may swallow chunks with their ids.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.model.failure import FailureReason

if TYPE_CHECKING:
    from exporter.engine.client.engine_client import EngineClient
    from exporter.engine.wire.request import ChatRequest
    from exporter.model.chat import Chat

_FIRST_WITH_IDS = (0, 10, 2)
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")

Ids = tuple[int, ...]


class TokenIds:
    """Remembers what one engine must be asked for, from turn to turn and session to session."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._version: str | None = None
        self._missing = False
        self._refused = False

    def begin(self, version: str | None) -> None:
        """Before a session; another version than before is asked as its age wants it."""
        if version != self._version:
            self._version = version
            self._missing, self._refused = _lacks_ids(version), False

    def asked_for(self, request: ChatRequest) -> ChatRequest:
        """The request, with logprobs if only these tell the answer's ids."""
        return replace(request, logprobs=self._missing and not self._refused)

    def refused(self, request: ChatRequest, chat: Chat) -> bool:
        """Whether the engine refused a request that asked for logprobs: then it is sent without."""
        failure = chat.failure
        if not request.logprobs or failure is None:
            return False
        self._refused = failure.reason is FailureReason.BAD_REQUEST
        return self._refused

    async def complete(self, request: ChatRequest, chat: Chat) -> Chat:
        """The answer with the ids that can be known."""
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
        return replace(
            chat, prompt_token_ids=prompt, completion_token_ids=answer, ids_recovered=recovered
        )

    async def _tokenized(self, request: ChatRequest, count: int) -> Ids | None:
        """The prompt's ids by /tokenize; with the tools or without, whichever are as many."""
        learned = self._client.learned
        for counts_tools in (learned.counts_tools, not learned.counts_tools):
            tools = request.tools if counts_tools else ()
            ids = await self._client.tokenize(request.model, request.messages, tools)
            if ids is not None and len(ids) == count:
                if request.tools:
                    learned.counts_tools = counts_tools
                return ids
            if ids is None or not request.tools:
                break
        return None


def _whole(ids: Ids | None, count: int | None) -> Ids | None:
    return ids if ids is not None and len(ids) == count else None


def _lacks_ids(version: str | None) -> bool:
    """Whether a vLLM of this version is too old for return_token_ids."""
    found = _RELEASE.match(version or "")
    return found is not None and tuple(int(part or 0) for part in found.groups()) < _FIRST_WITH_IDS
