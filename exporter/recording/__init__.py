"""Recorded requests of agents: from the lines of a file to one form for all APIs."""
