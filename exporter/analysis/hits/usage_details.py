"""What an answer without cached tokens means, by the other answers of the same process.

Without --enable-prompt-tokens-details vLLM never sends `prompt_tokens_details`. With it, vLLM 0.24
and later always send it, but 0.8.5 to 0.23 leave it out if no prompt token was cached (`if
self.enable_prompt_tokens_details and num_cached_tokens` in their chat completion's serving.py).
Gateways that drop empty fields do the same. So one answer without it proves nothing. It means 0 if
the process has reported hits and never a 0, unless the engine's own counters show that an answer
without it did hit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from exporter.model.chat import CachedTokensSource, Usage
from exporter.model.engine import release

_TELLS_ZERO_SINCE = (24, 0)  # vLLM 0.24


def always_reports(version: str | None) -> bool:
    """Whether this vLLM version reports every prompt's cached tokens if it reports any."""
    found = release(version)
    return found is not None and found >= _TELLS_ZERO_SINCE


@dataclass(slots=True)
class UsageReports:
    """What the answers of one process have reported so far.

    `silent`: an answer had no cached tokens in its usage. `hid_hit`: the engine's counters showed a
    hit of such an answer. `unsettled` counts such answers whose cached tokens are not known yet.
    """

    reported_zero: bool = False
    reported_hit: bool = False
    silent: bool = False
    hid_hit: bool = False
    unsettled: int = 0

    def add(self, cached_tokens: int) -> None:
        """Note an answer that reported its cached tokens."""
        self.reported_hit = self.reported_hit or cached_tokens > 0
        self.reported_zero = self.reported_zero or cached_tokens == 0

    @property
    def absent_is_zero(self) -> bool:
        """Whether an answer without cached tokens had 0."""
        return self.reported_hit and not self.reported_zero and not self.hid_hit

    def lacks(self, version: str | None) -> bool:
        """Whether silent answers should have reported cached tokens.

        Something on the way drops them then, or the flag is not set.
        """
        if self.reported_hit or self.reported_zero:
            return self.reported_zero and self.silent
        return self.hid_hit or (self.silent and always_reports(version))

    def counters_may_help(self, version: str | None) -> bool:
        """Whether the engine's counters around the next request may be needed to settle it."""
        if self.reported_zero or (self.hid_hit and not self.reported_hit):
            return False
        return self.silent or not always_reports(version)


@dataclass(frozen=True, slots=True)
class SilentAnswer:
    """An answer without cached tokens, and what the engine's counters say about it.

    `no_hits`: they counted no hit at all, even if other requests ran. `counted`: the hits of this
    prompt in all tiers, if the engine ran nothing else. `external`: those through a KV connector.
    """

    usage: Usage
    reports: UsageReports
    no_hits: bool = False
    counted: int | None = None
    external: int | None = None

    @property
    def known(self) -> int | None:
        """Its cached tokens by the counters alone; None is unknown."""
        return 0 if self.no_hits else self.counted

    def settled(self, *, from_counters: bool) -> Usage:
        """Its usage by all that is known now.

        A hit by the counters is used only with `from_counters`. A 0 by the counters is not used if
        the server is known to hide hits: then only its misses would be known, and sums would be
        wrong.
        """
        reports = self.reports
        none = 0 if self.usage.store else None
        if reports.absent_is_zero:
            return replace(self.usage, cached_tokens=0, external_tokens=none)
        hides = reports.reported_zero or (reports.hid_hit and not reports.reported_hit)
        if self.known == 0 and not hides:
            source = CachedTokensSource.NO_HITS
            return replace(self.usage, cached_tokens=0, source=source, external_tokens=none)
        if from_counters and self.counted is not None:
            return replace(
                self.usage,
                cached_tokens=self.counted,
                source=CachedTokensSource.COUNTERS,
                external_tokens=self.external if self.usage.store else None,
            )
        return self.usage
