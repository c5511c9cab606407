"""Makes a scenario from logged requests."""
