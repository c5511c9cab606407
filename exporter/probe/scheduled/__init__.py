"""What runs on a schedule: sessions, heartbeats, isolation tests and retention rounds."""
