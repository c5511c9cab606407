"""What holds for all targets alike: settings, and what was read from the files that they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.engine.scrape_limiter import Places
from exporter.scenario.library import fingerprint, load_scenarios

if TYPE_CHECKING:
    from exporter.config import ProbeSettings, ScrapeSettings
    from exporter.scenario.model import ScenarioKind


@dataclass(frozen=True, slots=True)
class Rules:
    """Two of them are equal where a target would run alike under both."""

    probe: ProbeSettings
    scrape: ScrapeSettings
    scenario_print: str  # changes with the content of the scenario files
    scenarios: tuple[ScenarioKind, ...] = field(compare=False, repr=False)
    places: Places = field(compare=False, repr=False)


def rules_of(probe: ProbeSettings, scrape: ScrapeSettings) -> Rules:
    """Read the scenario files, which may block. Raises `ConfigError` with every mistake in them."""
    seen = fingerprint(probe.scenario)  # before the reading: a later change is seen the next time
    return Rules(probe, scrape, seen, load_scenarios(probe.scenario), Places(scrape.concurrency))
