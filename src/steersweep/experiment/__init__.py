"""The study: what to run, what was found, and what follows from it."""
