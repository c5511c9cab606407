"""`explain`: why the requests of an agent miss the cache."""
