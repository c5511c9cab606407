"""Fixtures that most tests of this folder use."""

from published_app import client, metrics, published

__all__ = ["client", "metrics", "published"]
