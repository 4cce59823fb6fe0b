"""The apps, stacked on floors; imports go down only (see pyproject.toml)."""
