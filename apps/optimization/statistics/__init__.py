"""Resampling, tests, decomposition and time series over small arrays: numpy alone, no Django, no DuckDB."""
