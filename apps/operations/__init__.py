"""Floor 2: is the house fit to run; starting it, checking it, saying what is wrong."""
