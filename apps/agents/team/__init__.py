"""The agents, one per file; each registers itself and is found at start-up."""
