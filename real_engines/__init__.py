"""Plays sessions against real engines and writes docs/engines.md from what they showed."""
