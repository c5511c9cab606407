"""A receiver that listens."""

from __future__ import annotations

from otlp_receiver import receiver

__all__ = ["receiver"]
