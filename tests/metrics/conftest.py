"""The parts that most tests of this folder ask for."""

from published_app import client, metrics, published

__all__ = ["client", "metrics", "published"]
