"""Floor 5: what was said and what was done; threads, runs, steps, tool calls, and the journal of events."""
