"""`capture`: records the requests of an agent."""
