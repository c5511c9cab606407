"""The requests of a recording: as text, and as JSON."""
