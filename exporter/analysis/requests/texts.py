"""What changed between two versions of a text: a time, a date, an id, a number, or something else.

Only the first difference counts: a cache serves what comes before it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from exporter.analysis.reuse.cache_math import common_prefix
from exporter.model.explained import ChangeReason

_DAY = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_NUMERIC_DATE = r"\d{4}[-/.]\d\d[-/.]\d\d|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}"
_CLOCK = (
    r"\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\s?[ap]\.?m\b\.?)?(?:\s?(?:z|utc|gmt|[+-]\d\d:?\d\d))?"
)
_VALUES: Final = (
    (ChangeReason.TIME, rf"(?:{_NUMERIC_DATE})[t\s,]\s*{_CLOCK}|{_CLOCK}"),
    (ChangeReason.TIME, r"\b(?:1[5-9]|20)\d{8}(?:\d{3}|\d{6}|\d{9})?(?:\.\d+)?\b"),
    (ChangeReason.DATE, _NUMERIC_DATE),
    (
        ChangeReason.DATE,
        (
            rf"\b(?:{_DAY},?\s+)?"
            rf"(?:{_MONTH}\.?\s+\d{{1,2}}(?:st|nd|rd|th)?|\d{{1,2}}\.?\s+{_MONTH})\b(?:,?\s+\d{{4}})?"
        ),
    ),
    (ChangeReason.DATE, rf"\b{_DAY}\b"),
    (ChangeReason.ID, r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"),
    (ChangeReason.ID, r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[a-z])[\w-]{6,}"),
    (ChangeReason.COUNTER, r"(?<![\w.])[-+]?\d[\d,_]*(?:\.\d+)?(?!\w)"),
)
"""The kinds of values, the most specific first. Seconds since 1970 are those of 2017 to 2036."""
_KINDS: Final = tuple((reason, re.compile(text, re.IGNORECASE)) for reason, text in _VALUES)
_BILLING: Final = re.compile(
    r"\bx-[a-z-]+-header\b|^\s*[\w-]*(?:billing|attribution)[\w-]*\s*[:=]", re.IGNORECASE
)
"""A line that has or is a header. A sentence may speak of billing too."""
_THINKING: Final = re.compile(r"(?:<think>|\A).*?</think>\s*", re.DOTALL)
"""Some chat templates write the opening tag into the prompt, so an answer has the closing one."""
_AROUND = 160
"""Characters before and after a difference that are searched for a value."""
_SAME_AFTER = 4
"""Equal characters after two values that show that only the value changed."""


@dataclass(frozen=True, slots=True)
class TextChange:
    """The first difference of two texts: its kind and the index of its first character."""

    reason: ChangeReason
    index: int


def text_change(earlier: str, later: str) -> TextChange | None:
    """The first difference of two texts; None if they are equal."""
    if earlier == later:
        return None
    index = common_prefix(earlier, later)
    reason = (
        _same_json(earlier, later)
        or _whitespace(earlier, later)
        or _reasoning(earlier, later)
        or _value(earlier, later, index)
        or ChangeReason.TEXT_EDITED
    )
    return TextChange(reason, index)


def _same_json(earlier: str, later: str) -> ChangeReason | None:
    """The reason if both are JSON of the same value."""
    one, other = _container(earlier), _container(later)
    # As texts, because True equals 1 in Python.
    if one is None or json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        return None
    same_order = json.dumps(one) == json.dumps(other)
    return ChangeReason.WHITESPACE if same_order else ChangeReason.KEYS_REORDERED


def _container(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _reasoning(earlier: str, later: str) -> ChangeReason | None:
    """The reason if one is the other without its reasoning."""
    if _THINKING.sub("", earlier).strip() == later.strip():
        return ChangeReason.REASONING_STRIPPED
    if earlier.strip() == _THINKING.sub("", later).strip():
        return ChangeReason.REASONING_ECHOED
    return None


def _whitespace(earlier: str, later: str) -> ChangeReason | None:
    same = "".join(earlier.split()) == "".join(later.split())
    return ChangeReason.WHITESPACE if same else None


def _value(earlier: str, later: str, index: int) -> ChangeReason | None:
    """The kind of the value at the first difference, if only a value changed there."""
    before, after = _window(earlier, index), _window(later, index)
    if _BILLING.search(_line(before)) and _BILLING.search(_line(after)):
        return ChangeReason.BILLING_LINE
    for reason, kind in _KINDS:
        one, other = _value_at(before, kind), _value_at(after, kind)
        if one is None or other is None or one.text == other.text:
            continue
        if _goes_on_alike(one.after, other.after):
            return reason
    return None


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of a text, with the place of the difference in it."""

    text: str
    at: int


def _window(text: str, index: int) -> _Window:
    start = max(0, index - _AROUND)
    return _Window(text[start : index + _AROUND], index - start)


def _line(window: _Window) -> str:
    start = window.text.rfind("\n", 0, window.at) + 1
    end = window.text.find("\n", window.at)
    return window.text[start:] if end < 0 else window.text[start:end]


@dataclass(frozen=True, slots=True)
class _Value:
    """A value in a text, and what follows it."""

    text: str
    after: str


def _value_at(window: _Window, kind: re.Pattern[str]) -> _Value | None:
    """The value of this kind at the difference; None if there is no such value."""
    found = (one for one in kind.finditer(window.text) if one.start() <= window.at <= one.end())
    value = next(found, None)
    if value is None:
        return None
    return _Value(value.group(), window.text[value.end() : value.end() + _SAME_AFTER])


def _goes_on_alike(one: str, other: str) -> bool:
    """Whether the texts after two values are equal, as far as both are known."""
    return common_prefix(one, other) == min(len(one), len(other))
