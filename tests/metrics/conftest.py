"""The fixtures of most tests in this folder."""

from published_app import client, metrics, published

__all__ = ["client", "metrics", "published"]
