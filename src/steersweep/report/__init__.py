"""For people: figures and tables."""
