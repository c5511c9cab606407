"""Settings that all targets share, and the scenarios read from the files that they name."""

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
    """Equal if a target would run the same with both."""

    probe: ProbeSettings
    scrape: ScrapeSettings
    scenario_digest: str  # of the content of the scenario files
    scenarios: tuple[ScenarioKind, ...] = field(compare=False, repr=False)
    limiter: ScrapeLimiter = field(compare=False, repr=False)


def shared_settings_of(probe: ProbeSettings, scrape: ScrapeSettings) -> SharedSettings:
    """Read the scenario files, which may block. Raises `ConfigError` with every mistake in them."""
    digest = fingerprint(probe.scenario)  # before loading: the next reload sees a later change
    return SharedSettings(
        probe, scrape, digest, load_scenarios(probe.scenario), ScrapeLimiter(scrape.concurrency)
    )
