"""What the benchmark runs: a workload, the floors beside it, and their clients."""
