"""The settings of the rules and dashboards, read from TOML.

`deploy/mixin/settings.toml` says what each key does. It has every key, so the models have no
defaults. A file of one's own, named by MIXIN_SETTINGS, has only the keys that differ.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache, reduce
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from exporter.config.schema.additions import OF_FAMILIES
from exporter.metrics.state.latency import TTFT_BOUNDS
from mixin.words import number, seconds_of

SHIPPED: Final = Path(__file__).parents[1] / "deploy" / "mixin" / "settings.toml"
CHOSEN: Final = "MIXIN_SETTINGS"
"""The environment variable with the path of one's own file."""

Ratio = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(gt=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[float, Field(ge=1)]
Duration = Annotated[str, Field(pattern=r"^([1-9][0-9]*[smhdw]|0s)$")]


class SettingsError(Exception):
    """The mistakes of a file, one per line."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class HitRatio(Section):
    low: Ratio
    good: Ratio
    good_within: Duration
    min_users_tokens_per_second: NotNegative
    heartbeat_share: Ratio

    @model_validator(mode="after")
    def _is_ordered(self) -> HitRatio:
        _check_order(self.low, self.good)
        return self


class Efficiency(Section):
    low: Ratio
    good: Ratio
    window: Duration

    @model_validator(mode="after")
    def _is_ordered(self) -> Efficiency:
        _check_order(self.low, self.good)
        _at_least_two_minutes(self.window)
        return self


class Retention(Section):
    low: Ratio
    longest_gap_seconds: Annotated[int, Field(ge=1)]


class Burn(Section):
    burn_rate: AtLeastOne
    long_window: Duration
    short_window: Duration
    min_turns: NotNegative

    @model_validator(mode="after")
    def _short_is_shorter(self) -> Burn:
        if seconds_of(self.short_window) >= seconds_of(self.long_window):
            raise ValueError("short_window must be shorter than long_window")
        _at_least_two_minutes(self.short_window)
        return self


class Objective(Section):
    objective_ratio: BelowOne
    bound_seconds: float

    @field_validator("bound_seconds")
    @classmethod
    def _is_a_bucket(cls, bound: float) -> float:
        if bound not in TTFT_BOUNDS:
            allowed = ", ".join(map(number, TTFT_BOUNDS))
            raise ValueError(f"not a bucket of the histogram; allowed: {allowed}")
        return bound


class UsersTtft(Objective):
    min_requests: NotNegative


class Ttft(Objective):
    fast: Burn
    slow: Burn

    @model_validator(mode="after")
    def _has_four_windows(self) -> Ttft:
        windows = [w for b in (self.fast, self.slow) for w in (b.long_window, b.short_window)]
        if len(set(windows)) < len(windows):
            raise ValueError("the four windows of fast and slow must differ")
        return self

    def check_can_fire(self, key: str, objective: Objective) -> None:
        for name, burn in (("fast", self.fast), ("slow", self.slow)):
            if burn.burn_rate * (1 - objective.objective_ratio) >= 1:
                raise ValueError(
                    f"ttft.{name}.burn_rate times (1 - {key}.objective_ratio) must be below 1, "
                    "or the alert could never fire"
                )


class TtftRegression(Section):
    factor: AtLeastOne
    margin_seconds: NotNegative


class Stale(Section):
    heartbeat_seconds: Positive
    heartbeat_intervals: Positive
    session_seconds: Positive


class Serving(Section):
    session_seconds: Positive
    heartbeat_seconds: Positive


class KvCache(Section):
    full: BelowOne


class CrashLoop(Section):
    restarts: Annotated[int, Field(ge=2)]
    window: Duration

    @field_validator("window")
    @classmethod
    def _is_long_enough(cls, window: str) -> str:
        return _at_least_two_minutes(window)


class Links(Section):
    runbooks: Annotated[str, Field(pattern=r"^(https?://\S*[^/\s]|\{\{.+\}\})$")]
    exporter: Annotated[str, Field(pattern=r"^https?://\S*[^/\s]$")]


class Labels(Section):
    keep: list[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]]

    @field_validator("keep")
    @classmethod
    def _are_free(cls, names: list[str]) -> list[str]:
        taken = [name for name in names if name in OF_FAMILIES or names.count(name) > 1]
        if taken:
            raise ValueError(
                f"{taken[0]} is there twice, or series of the exporter have it already"
            )
        return names


class Alert(Section):
    severity: Literal["critical", "warning", "info"]
    for_: Annotated[Duration, Field(alias="for")]


# What an alert looks back on. With a longer `for` it would never fire.
_EVENTS: Final = {
    "VllmSaltTestLeaked": "30m",
    "VllmExporterLoopFailing": "10m",
    "VllmOutOfMemory": "10m",
    "VllmStartFailing": "10m",
}


class Settings(Section):
    hit_ratio: HitRatio
    efficiency: Efficiency
    retention: Retention
    ttft: Ttft
    users_ttft: UsersTtft
    ttft_regression: TtftRegression
    stale: Stale
    serving: Serving
    kv_cache: KvCache
    crash_loop: CrashLoop
    links: Links
    labels: Labels
    alerts: dict[str, Alert]

    @model_validator(mode="after")
    def _budgets_can_be_burnt(self) -> Settings:
        self.ttft.check_can_fire("ttft", self.ttft)
        self.ttft.check_can_fire("users_ttft", self.users_ttft)
        return self

    @model_validator(mode="after")
    def _events_are_seen(self) -> Settings:
        for name, window in {**_EVENTS, "VllmCrashLoop": self.crash_loop.window}.items():
            if seconds_of(self.alerts[name].for_) >= seconds_of(window):
                raise ValueError(f'alerts.{name}.for must be below "{window}", or it never fires')
        return self


def read(own: Path | None = None) -> Settings:
    """The shipped settings, with the values of one's own file over them. Raises SettingsError."""
    shipped = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    if own is None:
        return _checked(shipped, SHIPPED)
    try:
        values = tomllib.loads(own.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{own}: {error}") from error
    unknown = set(values.get("alerts") or ()) - set(shipped["alerts"])
    if unknown:
        raise SettingsError(f"{own}: alerts: there is no alert {', '.join(sorted(unknown))}")
    return _checked(_over(shipped, values), own)


@cache
def chosen() -> Settings:
    """The settings of the file that the environment names, else the shipped ones."""
    path = os.environ.get(CHOSEN)
    return read(Path(path) if path else None)


def _checked(values: dict[str, Any], path: Path) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_mistake(each, values) for each in error.errors()]
        raise SettingsError("\n".join(f"{path}: {line}" for line in lines)) from error


def _mistake(error: Any, values: dict[str, Any]) -> str:
    """The key, its value, and what is allowed."""
    key = ".".join(map(str, error["loc"])) or "the file"
    if error["type"] == "extra_forbidden":
        beside = reduce(lambda table, part: table[part], error["loc"][:-1], values)
        allowed = ", ".join(name for name in beside if name != error["loc"][-1])
        return f"{key}: there is no such key; allowed: {allowed}"
    if error["type"] == "string_pattern_mismatch" and "smhdw" in error["ctx"]["pattern"]:
        return f'{key} is {error["input"]!r}: it must be a duration such as "30s", "5m" or "1h"'
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "it must")
    shown = "" if isinstance(error["input"], dict) else f" is {error['input']!r}"
    return f"{key}{shown}: {message}"


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables merged key by key."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _over(merged[key], value) if both else value
    return merged


def _check_order(low: float, good: float) -> None:
    if low >= good:
        raise ValueError(f"low ({number(low)}) must be below good ({number(good)})")


def _at_least_two_minutes(window: str) -> str:
    if seconds_of(window) < 120:  # noqa: PLR2004 - several scrapes
        raise ValueError(f'a window of "{window}" is too short: at least "2m"')
    return window
