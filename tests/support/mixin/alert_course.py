"""Series that are good, then bad, then good again, and what an alert says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from mixin.words import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mixin.settings import Settings

OF_TARGET = 'target="a"'
"""Its series have a label of the user's too, which the alert must keep."""


def minutes(duration: str | float) -> int:
    seconds = seconds_of(duration) if isinstance(duration, str) else duration
    return -(-int(seconds) // 60)


@dataclass
class Course:
    """`bad` and `tail` are how many minutes an alert needs to see the fault, and its end."""

    settings: Settings
    alert: str
    before: int = 5
    bad: int = 0
    tail: int = 0
    firing: tuple[str, ...] = ('target="a"',)
    at_once: bool = True
    """Whether the condition holds from the first bad minute on."""
    series: dict[str, list[float | None]] = field(default_factory=dict)

    @property
    def holds(self) -> int:
        return minutes(self.settings.alerts[self.alert].for_)

    @property
    def starts(self) -> int:
        return self.before

    @property
    def ends(self) -> int:
        return self.before + self.bad + self.holds + 3

    @property
    def last(self) -> int:
        return self.ends + self.tail + 3

    def is_bad(self) -> list[bool]:
        return [self.starts <= minute < self.ends for minute in range(self.last + 1)]

    def gauge(self, series: str, good: float | None, bad: float | None) -> Course:
        self.series[series] = [bad if is_bad else good for is_bad in self.is_bad()]
        return self

    def constant(self, series: str, value: float) -> Course:
        return self.gauge(series, value, value)

    def counter(self, series: str, good: float, bad: float) -> Course:
        """Growth per minute."""
        steps = [bad if is_bad else good for is_bad in self.is_bad()]
        self.series[series] = [0.0, *accumulate(steps[1:])]
        return self

    def events(self, series: str, count: int) -> Course:
        """So many, one in each minute from the first bad one on."""
        self.series[series] = [
            float(min(max(minute - self.starts + 1, 0), count)) for minute in range(self.last + 1)
        ]
        return self

    def clock(self, series: str, behind: float, *, stops: bool = False) -> Course:
        """A Unix time that is so many seconds behind; it may stop while things are bad."""
        self.series[series] = [
            (self.starts if stops and is_bad else minute) * 60 - behind
            for minute, is_bad in enumerate(self.is_bad())
        ]
        return self

    def as_test(self, alert: str) -> dict[str, Any]:
        quiet = [self.starts - 1, self.last]
        if self.at_once and self.holds:
            quiet.append(self.starts + self.holds - 1)
        fired = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
        kept = self.settings.labels.keep[0]
        expr = f"group by (target, {kept}) ({fired})"
        added = f'{OF_TARGET}, {kept}="red"'
        labels = [
            {"labels": f"{{{each.replace(OF_TARGET, added)}}}", "value": 1} for each in self.firing
        ]
        return {
            "name": alert,
            "interval": "1m",
            "input_series": [
                {"series": name.replace(OF_TARGET, added), "values": " ".join(_texts(values))}
                for name, values in self.series.items()
            ],
            "promql_expr_test": [
                *({"expr": expr, "eval_time": f"{at}m", "exp_samples": []} for at in quiet),
                {"expr": expr, "eval_time": f"{self.ends - 1}m", "exp_samples": labels},
            ],
        }


def _texts(values: Iterable[float | None]) -> list[str]:
    return ["_" if value is None else repr(float(value)) for value in values]
