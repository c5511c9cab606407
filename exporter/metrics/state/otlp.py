"""What the exporter knows of its exports over OTLP. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class OtlpState:
    """Exports by signal and outcome; empty while OTLP is off."""

    exports: dict[tuple[str, str], int] = field(default_factory=dict)
    dropped_sessions: int | None = None  # None: traces are off

    def on(self, signal: str) -> None:
        """Count from 0."""
        self.exports |= {(signal, "success"): 0, (signal, "failure"): 0}
        if signal == "traces":
            self.dropped_sessions = 0

    def exported(self, signal: str, *, failed: bool) -> None:
        """One export ended."""
        self.exports[signal, "failure" if failed else "success"] += 1

    def dropped(self, sessions: int) -> None:
        """So many sessions were not sent and are lost."""
        self.dropped_sessions = (self.dropped_sessions or 0) + sessions
