"""What holds for all targets alike: settings, and what was read from the files that they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.engine.scrape_limiter import ScrapeLimiter
from exporter.scenario.library import fingerprint, load_scenarios

if TYPE_CHECKING:
    from exporter.config import ProbeSettings, ScrapeSettings
    from exporter.scenario.model import ScenarioKind


@dataclass(frozen=True, slots=True)
class SharedSettings:
    """Two of them are equal where a target would run alike under both."""

    probe: ProbeSettings
    scrape: ScrapeSettings
    scenario_print: str  # changes with the content of the scenario files
    scenarios: tuple[ScenarioKind, ...] = field(compare=False, repr=False)
    limiter: ScrapeLimiter = field(compare=False, repr=False)


def shared_settings_of(probe: ProbeSettings, scrape: ScrapeSettings) -> SharedSettings:
    """Read the scenario files, which may block. Raises `ConfigError` with every mistake in them."""
    seen = fingerprint(probe.scenario)  # before the reading: a later change is seen the next time
    return SharedSettings(
        probe, scrape, seen, load_scenarios(probe.scenario), ScrapeLimiter(scrape.concurrency)
    )
