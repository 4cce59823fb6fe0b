"""Floor 7: who does what. Replace this app, and the rest is a general agent backend."""
