"""The daemon as a process of its own, for the tests of this folder that ask for it."""

from daemon_process import daemon

__all__ = ["daemon"]
