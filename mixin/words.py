"""How the settings are written in rules and in sentences. Pure."""

from __future__ import annotations

from typing import Final

_UNITS: Final = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_NAMES: Final = {"w": "week", "d": "day", "h": "hour", "m": "minute", "s": "second"}
_SMALL: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve"),
)


def number(value: float) -> str:
    """A number without a power of ten and without zeros at its end."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def percent(ratio: float) -> str:
    return f"{number(round(ratio * 100, 4))} %"


def bucket(bound: float) -> str:
    """The value of the label `le`, as Prometheus writes it: 1.0, not 1."""
    return repr(float(bound))


def seconds_of(duration: str) -> int:
    """The seconds of one of Prometheus's durations of one unit."""
    return int(duration[:-1]) * _UNITS[duration[-1]]


def words(duration: str | float) -> str:
    """A duration, or seconds, in words: a minute, five minutes, 15 minutes."""
    count, name = _counted(duration)
    if count == 1:
        return f"{'an' if name == 'hour' else 'a'} {name}"
    return f"{small(count)} {name}s"


def days_of_a_month(burn_rate: float) -> str:
    """When a budget of 30 days is spent at this rate, to a day."""
    days = max(1, round(30 / burn_rate))
    return words(days * _UNITS["d"]) if days > 1 else "a day"


def span(duration: str | float) -> str:
    """The same after "the last": hour, five minutes."""
    count, name = _counted(duration)
    return name if count == 1 else f"{small(count)} {name}s"


def small(count: float) -> str:
    """Small whole numbers as words, others as figures."""
    whole = int(count) if float(count).is_integer() else None
    return _SMALL[whole] if whole is not None and whole < len(_SMALL) else number(count)


def _counted(duration: str | float) -> tuple[float, str]:
    seconds = seconds_of(duration) if isinstance(duration, str) else duration
    for unit in "dhm":
        if seconds and seconds % _UNITS[unit] == 0:
            return seconds // _UNITS[unit], _NAMES[unit]
    return seconds, _NAMES["s"]


def up_to(most: int) -> str:
    """A regular expression for the whole numbers from 0 to `most`, for a label of PromQL."""
    digits = str(most)
    shorter = [_digits(len(digits) - 1)] if len(digits) > 1 else []
    smaller = [
        f"{digits[:place]}{_range(first, int(digit) - 1)}{_any(len(digits) - place - 1)}"
        for place, digit in enumerate(digits)
        if int(digit) > (first := 1 if place == 0 and len(digits) > 1 else 0)
    ]
    return "|".join([*shorter, *smaller, digits])


def _digits(most: int) -> str:
    return "[0-9]" if most == 1 else f"[0-9]{{1,{most}}}"


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"[{first}-{last}]"


def _any(count: int) -> str:
    return {0: "", 1: "[0-9]"}.get(count, f"[0-9]{{{count}}}")
