"""Numbers and times for people; an unknown one is a dash. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

UNKNOWN = "–"  # noqa: RUF001 - a dash in a table is wider than a minus

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def tokens(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f} token{'' if value == 1 else 's'}"


def percent(ratio: float | None) -> str:
    """A ratio from 0 to 1. Never rounded up to 100 % or down to 0 %."""
    if ratio is None:
        return UNKNOWN
    if ratio in {0, 1}:
        return f"{ratio:.0%}".replace("%", " %")
    shown = f"{ratio * 100:.1f} %"
    return {"100.0 %": "> 99.9 %", "0.0 %": "< 0.1 %"}.get(shown, shown)


def seconds(value: float | None) -> str:
    """Milliseconds below one second, else seconds, minutes, hours or days."""
    if value is None:
        return UNKNOWN
    if value < 1:
        return _milliseconds(value * 1000)
    if value < 10:  # noqa: PLR2004 - below ten one more digit matters
        return f"{value:.2f} s"
    if value < 2 * _MINUTE:
        return f"{value:.0f} s"
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if value >= 2 * unit:
            return f"{value / unit:.0f} {name}"
    return f"{value / _MINUTE:.0f} min"


def _milliseconds(value: float) -> str:
    if value == 0:
        return "0 ms"
    if value < 0.01:  # noqa: PLR2004 - ten microseconds
        return "< 0.01 ms"
    return f"{value:.3g} ms" if value < 999.5 else "1 s"  # noqa: PLR2004 - would read 1e+03


def size(value: float) -> str:
    """Bytes in decimal units, as Docker shows them."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value:.0f} B"


def spaced(label: str) -> str:
    """A label of a metric as words."""
    return label.replace("_", " ")


def moment(unix_time: float) -> str:
    return datetime.fromtimestamp(unix_time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(unix_time: float | None, now: float) -> str:
    """How long ago, or how far in the future."""
    if unix_time is None:
        return UNKNOWN
    gap = round(now - unix_time)
    if gap == 0:
        return "now"
    length = f"{abs(gap)} s" if abs(gap) < 2 * _MINUTE else seconds(abs(gap))
    return f"{length} ago" if gap > 0 else f"in {length}"
