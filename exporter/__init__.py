"""Measures vLLM's prefix cache with synthetic agent sessions and exports what it finds."""

__version__ = "0.1.0"
