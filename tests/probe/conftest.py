"""Sessions against a simulated engine, for the tests of this folder that ask for one."""

from session_bench import bench

__all__ = ["bench"]
