"""Recorded requests on an engine: their token ids, and sending them again."""
