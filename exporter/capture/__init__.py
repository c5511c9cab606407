"""A proxy in front of one engine that records the requests of agents."""
