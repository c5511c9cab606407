"""Masks secrets in a container's output before it is stored, shown or logged."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "***"

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    # A Hugging Face token is hf_ and 34 letters and digits; no name in vLLM looks like that.
    (re.compile(r"\bhf_[A-Za-z0-9]{12,}"), f"hf_{MASK}"),
    # vLLM logs its arguments at start: 'api_key': ['…'], and in a namespace: api_key='…'.
    (
        re.compile(
            r"""((?:api_?key|token|password|secret)['"]?\s*[=:]\s*)"""
            r"""(\[[^\]]*\]|'[^']*'|"[^"]*")""",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(--(?:api-key|hf-token)[= ])\S+"), rf"\1{MASK}"),
    (re.compile(r"\b([Bb]earer\s+)\S+"), rf"\1{MASK}"),
)


def mask(text: str, known: Iterable[str] = ()) -> str:
    """`text` without the secrets in `known` and without what looks like a secret."""
    for secret in known:
        if secret:
            text = text.replace(secret, MASK)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
