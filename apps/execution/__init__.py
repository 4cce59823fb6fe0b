"""Floor 6: runs agents and tools, and knows none of them by name."""
