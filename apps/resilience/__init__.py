"""Floor 1, beside accounts: calls to things that fail. Plain Python on Redis, without Django."""
