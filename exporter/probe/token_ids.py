"""Token ids from an engine that does not send them: a vLLM before 0.10.2, or a proxy in between.

A prompt's ids are those of /tokenize for the same messages and tools, if they are as many as usage
counted. An answer's are in its logprobs, which such a vLLM writes as "token_id:123" when asked;
they are asked for only once a stream came without ids. Encoding the answer's text anew would not
tell them: it may encode to others than those that were generated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.model import FailureReason

if TYPE_CHECKING:
    from exporter.engine.client import Chat, ChatRequest, EngineClient


class TokenIds:
    """Remembers what one engine must be asked for, from turn to turn and session to session."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._missing = False
        self._refused = False

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

    async def complete(self, request: ChatRequest, chat: Chat) -> tuple[Chat, bool]:
        """The answer with the ids that can be known, and whether any had to be looked for."""
        self._missing = chat.prompt_token_ids is None
        if not self._missing or chat.failure is not None or chat.usage is None:
            return chat, False
        prompt = await self._client.tokenize(request.model, request.messages, request.tools)
        answer = chat.completion_token_ids
        if prompt is not None and len(prompt) != chat.usage.prompt_tokens:
            prompt = None
        if answer is not None and len(answer) != chat.usage.completion_tokens:
            answer = None
        return replace(chat, prompt_token_ids=prompt, completion_token_ids=answer), True
