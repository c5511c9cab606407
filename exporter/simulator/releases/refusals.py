"""The refusal texts of each release of vLLM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.simulator.releases import ages

if TYPE_CHECKING:
    from exporter.simulator.releases.ages import Age, Span

# For a prompt that does not fit: the text, and which number is the value. From 0.14 on the
# tokenizer stops one token above the limit, so the text has that number.
_LIMIT = "This model's maximum context length is {limit} tokens. However, "
_IN_MESSAGES = (
    _LIMIT + "you requested {total} tokens ({prompt} in the messages, {output} in the completion)."
    " Please reduce the length of the messages or completion."
)
_PASSED = (
    "You passed {seen} input tokens and requested {output} output tokens. However, the model's"
    " context length is only {limit} tokens, resulting in a maximum input length of {room}"
    " tokens. Please reduce the length of the input prompt."
)
_TOO_LONG: tuple[tuple[Span, str, str | None], ...] = (
    (ages.Span(until=(0, 9)), _IN_MESSAGES, None),
    (ages.Span((0, 9), (0, 10, 2)), _IN_MESSAGES + " None", None),
    (
        ages.Span((0, 10, 2), (0, 14)),
        _LIMIT + "your request has {prompt} input tokens."
        " Please reduce the length of the input messages. None",
        None,
    ),
    (ages.Span((0, 14), (0, 18)), _PASSED, "seen"),
    (
        ages.Span((0, 18), (0, 32)),
        _LIMIT + "you requested {output} output tokens and your prompt contains at least {seen}"
        " input tokens, for a total of at least {above} tokens. Please reduce the length of the"
        " input prompt or the number of requested output tokens.",
        "seen",
    ),
    (
        ages.ALWAYS,
        _LIMIT + "your prompt contains at least {above} input tokens, which exceeds this limit even"
        " without any output tokens. Please reduce the length of the input prompt.",
        "above",
    ),
)


def too_long(age: Age, prompt: int, output: int, limit: int) -> tuple[str, int | None]:
    """The text for a prompt that does not fit the context, and the value in it."""
    numbers = {
        "prompt": prompt, "output": output, "limit": limit, "total": prompt + output,
        "room": limit - output, "seen": limit - output + 1, "above": limit + 1,
    }  # fmt: skip
    words, value = next((words, value) for span, words, value in _TOO_LONG if age in span)
    return words.format(**numbers), None if value is None else numbers[value]


def worded(age: Age, body: dict[str, Any]) -> dict[str, Any]:
    """A refusal in the JSON format of its release."""
    error = body.get("error")
    if not isinstance(error, dict):
        return body
    if age not in ages.ERROR_PARAMS:
        error = error | {"param": None}
    return {"object": "error", **error} if age in ages.FLAT_ERRORS else {"error": error}
