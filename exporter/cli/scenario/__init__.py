"""`scenario import`: makes a scenario file from a log."""
