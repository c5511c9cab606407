"""The daemon in its own process."""

from daemon_process import daemon

__all__ = ["daemon"]
