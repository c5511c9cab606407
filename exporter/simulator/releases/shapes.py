"""The JSON of a chat answer in each release of vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.simulator.releases import ages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.simulator.releases.ages import Age

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ids:
    """The token ids of a prompt and of an answer; None if not requested."""

    prompt: Sequence[int] | None
    answer: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class Cached:
    """The cache numbers of usage, in tokens."""

    cached: int
    created: int


@dataclass(frozen=True, slots=True)
class End:
    """Why an answer ended."""

    reason: str
    stop: str | None


def fingerprint(age: Age) -> str | None:
    return f"vllm-simulator-{age.version}" if age in ages.FINGERPRINT else None


def role_chunk(age: Age, prompt_ids: Sequence[int] | None) -> Json:
    """The first chunk, without the fields of all chunks."""
    delta = {"role": "assistant", "content": ""}
    choice: Json = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    chunk: Json = {"choices": [choice]}
    if age in ages.TOKEN_IDS:
        chunk["prompt_token_ids"] = None if prompt_ids is None else list(prompt_ids)
    if age in ages.PROMPT_TEXT:
        chunk["prompt_text"] = None
    return chunk


def step_chunk(
    age: Age, delta: Json, logprobs: Json | None, end: End | None, ids: Sequence[int] | None
) -> Json:
    """A chunk of generated text; only the last one has an `end`."""
    sparse = age in ages.SPARSE_CHUNKS
    if sparse:
        delta = {**delta, "tool_calls": delta.get("tool_calls", [])}
    choice: Json = {"index": 0, "delta": delta, "logprobs": logprobs}
    choice["finish_reason"] = None if end is None else end.reason
    if end is not None:
        choice["stop_reason"] = end.stop
    if sparse:
        choice = {key: value for key, value in choice.items() if value is not None}
    if age in ages.TOKEN_IDS:
        choice["token_ids"] = None if ids is None else list(ids)
    return {"choices": [choice]}


def usage(age: Age, prompt: int, completion: int) -> Json:
    """Usage without the cache numbers."""
    counted: Json = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if age in ages.COMPLETION_DETAILS:
        counted["completion_tokens_details"] = None
    return counted


def details(age: Age, cache: Cached) -> Json | None:
    """The details of the prompt tokens; None if this release has none."""
    if age not in ages.V1_CACHED_TOKENS and age not in ages.V0_CACHED_TOKENS:
        return None
    if cache.cached == 0 and age not in ages.CACHED_ZERO:
        return None
    found: Json = {"cached_tokens": cache.cached}
    if age in ages.CREATED_CACHE_TOKENS:
        found["created_cache_tokens"] = cache.created
    return found


def whole_usage(age: Age, counted: Json, details: Json | None) -> Json:
    """Usage of an answer that is not streamed."""
    if details is not None and age in ages.MULTIMODAL_TOKENS:
        details = details | {"multimodal_tokens": None}
    last = {key: counted.pop(key) for key in ("completion_tokens_details",) if key in counted}
    return {**counted, "prompt_tokens_details": details, **last}


def message(age: Age, content: str | None, reasoning: str | None, calls: Sequence[Json]) -> Json:
    """The assistant's message of an answer that is not streamed."""
    name = "reasoning_content" if age in ages.REASONING_CONTENT else "reasoning"
    empty_calls: Json = {"tool_calls": []} if age in ages.EMPTY_TOOL_CALLS else {}
    if age in ages.OPENAI_FIELDS:
        said: Json = {"role": "assistant", "content": content}
        said |= dict.fromkeys(("refusal", "annotations", "audio", "function_call"))
        said |= empty_calls | {name: reasoning}
    else:
        said = {"role": "assistant", name: reasoning, "content": content} | empty_calls
    return said | ({"tool_calls": list(calls)} if calls else {})


def whole_choice(age: Age, said: Json, logprobs: Json | None, end: End, ids: Ids) -> Json:
    choice: Json = {"index": 0, "message": said, "logprobs": logprobs}
    choice |= {"finish_reason": end.reason, "stop_reason": end.stop}
    if age in ages.TOKEN_IDS:
        choice["token_ids"] = None if ids.answer is None else list(ids.answer)
    if age in ages.ROUTED_EXPERTS:
        choice["routed_experts"] = None
    return choice


def whole(age: Age, choice: Json, used: Json, ids: Ids) -> Json:
    """An answer that is not streamed, without its id, time and model."""
    body: Json = {"choices": [choice]}
    if age in ages.OPENAI_FIELDS:
        body |= {"service_tier": None, "system_fingerprint": fingerprint(age)}
    body |= {"usage": used, "prompt_logprobs": None}
    if age in ages.TOKEN_IDS:
        body["prompt_token_ids"] = None if ids.prompt is None else list(ids.prompt)
    if age in ages.PROMPT_TEXT:
        body["prompt_text"] = None
    if age in ages.TRANSFER_PARAMS:
        body["kv_transfer_params"] = None
    if age in ages.ENCODER_PARAMS:
        body |= {"ec_transfer_params": None, "metrics": None}
    return body
