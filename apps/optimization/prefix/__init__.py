"""Prefix caches: what a provider's cache of prompts would have held, replayed over blocks of prompts in time order."""
